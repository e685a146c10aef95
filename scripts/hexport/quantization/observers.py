"""These observers of activations leave out outliers. Like min-max, they keep the widest range of all samples."""

import torch
from torchao.quantization.pt2e import MinMaxObserver

TAIL = 1e-4  # this share of a sample's values lies beyond each end of the range that PercentileObserver keeps
STEPS = 40  # MseObserver tries as many ranges, 1/40 to 40/40 of min-max


class _SampleObserver(MinMaxObserver):
    """This observer keeps a part of the range of each sample."""

    def sample_range(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the smallest and the largest of the values, float32 (n,), that codes are to tell apart."""
        raise NotImplementedError

    def forward(self, x_orig: torch.Tensor) -> torch.Tensor:
        if x_orig.numel():
            low, high = self.sample_range(x_orig.detach().float().reshape(-1))
            self.min_val, self.max_val = torch.minimum(low, self.min_val), torch.maximum(high, self.max_val)
        return x_orig


class PercentileObserver(_SampleObserver):
    """This observer keeps the range without the most extreme values of each sample, 1 of 10,000 at each end."""

    def sample_range(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        beyond = int(TAIL * x.numel())
        return x.kthvalue(beyond + 1).values, x.kthvalue(x.numel() - beyond).values


class MseObserver(_SampleObserver):
    """This observer keeps that fraction of the min-max range in which a sample's codes have the least squared error.

    The codes have as many bits as the observed activation.
    """

    def sample_range(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        low, high = x.min().clamp(max=0), x.max().clamp(min=0)
        if self.qscheme == torch.per_tensor_symmetric:
            high = torch.maximum(-low, high)
            low = -high
        codes = self.quant_max - self.quant_min
        best, least = 1.0, torch.tensor(torch.inf)
        for fraction in torch.linspace(1 / STEPS, 1, STEPS).tolist():
            scale = ((high - low) * fraction / codes).clamp(min=1e-12)
            coded = (x.clamp(low * fraction, high * fraction) / scale).round() * scale
            if (lost := (coded - x).square().sum()) < least:
                best, least = fraction, lost
        return low * best, high * best
