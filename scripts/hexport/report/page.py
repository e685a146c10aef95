"""This module makes one page of everything: programs, figures of the three phases, speed, answers, cost. The page needs
no other file."""

import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from hexport.build.artifacts import Place, ProgramKey, result_file
from hexport.evaluation.result_files import SPEEDS
from hexport.report.changes import Difference, Figures
from hexport.report.charts import lines, scatter, stacked_bars
from hexport.report.programs import STAGES, BuiltProgram, model_costs
from hexport.report.summary import PHASES, Evaluation, phase_files
from hexport.report.template import PAGE

COMPARED = {
    "sqnr_db": "SQNR, dB",
    "kl_divergence": "KL divergence, nats",
    "top1_agreement": "top-1 agreement with fp",
    "top1_agreement_qdq": "top-1 agreement with qdq",
    "tokens": "tokens scored",
}
MOST_LINES = 12  # as many a chart has


@dataclass(frozen=True)
class Chart:
    """A chart has an anchor (`id`), a name for the page's navigation (`short`), a title, a text below that, and the
    SVG."""

    id: str
    short: str
    title: str
    text: str
    svg: str


@dataclass(frozen=True)
class Report:
    """A report is what a page shows. `results` are contents of result.json, with their places, and `artifacts` is the
    folder of all files."""

    artifacts: str
    programs: list[BuiltProgram]
    evaluations: list[Evaluation]
    results: list[tuple[Place, dict]]


def report_page(report: Report, changes: Sequence[Difference], folder: Path) -> str:
    """Return the page in HTML, for a file in `folder`, from where its links go out."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(PAGE).render(
        programs=report.programs,
        evaluations=report.evaluations,
        results=report.results,
        changes=changes,
        charts=_charts(report),
        phases=PHASES,
        compared=COMPARED,
        speeds=SPEEDS,
        metrics=_metrics,
        shown=_shown,
        speed=_speed,
        conversations=_conversations,
        link=lambda file: Path(os.path.relpath(file, folder)).as_posix(),
        result_file=lambda place: result_file(report.artifacts, place),
        files_of=lambda evaluation: phase_files(report.artifacts, evaluation),
        ratios_of=lambda program: ratios(report.evaluations, program),
    )


def figures_of(report: Report) -> Figures:
    """Return what a report says in figures, by names, which the next report is compared with. Sizes are in MB, speeds
    in tokens per second."""
    found: Figures = {}
    for each in report.programs:
        name = " / ".join(map(str, each.program))
        found[f"{name}: MB"] = each.n_bytes and round(each.n_bytes / 1e6, 1)
    for evaluation in report.evaluations:
        place = " / ".join(filter(None, evaluation.place.folders))
        for phase in ("qdq", "device"):
            for task, ratio in evaluation.phases[phase].get("perplexity_ratio", {}).items():
                found[f"{place}: {task}, {phase} / fp"] = ratio and round(ratio, 4)
    for place, result in report.results:
        rates = [prompt["decode_tokens_per_s"] for prompt in result["prompts"] if prompt["decode_tokens_per_s"]]
        found[f"{' / '.join(place.folders)}: decode, tokens/s"] = round(statistics.median(rates), 2) if rates else None
    return found


def ratios(evaluations: Sequence[Evaluation], program: ProgramKey) -> tuple[float | None, float | None]:
    """Return the worst perplexity ratio of a program's fake-quantised decoder, and of what a device computed of the
    program. None stands for a ratio that was not measured."""
    version = (program.model, program.recipe, program.context_length)
    same = [each for each in evaluations if (each.place.model, each.place.recipe, each.place.context_length) == version]
    of_program = [each for each in same if (each.place.target, each.place.mode) == (program.target, program.mode)]
    return _worst("qdq", same), _worst("device", of_program)


def _worst(phase: str, evaluations: Sequence[Evaluation]) -> float | None:
    contents = (each.phases[phase] for each in evaluations)
    found = [ratio for content in contents for ratio in content.get("perplexity_ratio", {}).values() if ratio]
    return max(found, default=None)


def _charts(report: Report) -> list[Chart]:
    """Return those charts for which there is anything to show."""
    charts = []
    if points := _sizes_and_ratios(report):
        svg = scatter(points, "size of the program, MB", "perplexity, float = 1")
        text = "The smallest program of each recipe, of all modes and chips, and what the recipe costs in perplexity."
        charts.append(Chart("quality", "size and quality", "Size against quality", text, svg))
    if noise := _noise(report.evaluations):
        svg = lines(noise, "layer", "SQNR of hidden states, dB")
        text = "How near the fake-quantised decoder's hidden states are to the float model's. A cliff names a layer."
        charts.append(Chart("noise", "noise by layer", "Noise by layer", text, svg))
    if costs := model_costs(report.programs):
        series = {
            stage: [of_model[stage].seconds if stage in of_model else None for of_model in costs.values()]
            for stage in STAGES
            if any(stage in of_model for of_model in costs.values())
        }
        peaks = {model: max(cost.peak_mb for cost in of_model.values()) for model, of_model in costs.items()}
        svg = stacked_bars([f"{model}, {peaks[model]:,} MB" for model in costs], series, "seconds")
        text = "Seconds of all jobs of a model, one after the other, and the most memory that one of them took."
        charts.append(Chart("cost", "time and memory", "Where time and memory went", text, svg))
    return charts


def _sizes_and_ratios(report: Report) -> dict[str, list[tuple[float, float]]]:
    points: dict[str, tuple[float, float]] = {}
    for each in report.programs:
        ratio, _ = ratios(report.evaluations, each.program)
        if each.n_bytes and ratio:
            name = _version(each.program)
            points[name] = min(points.get(name, (float("inf"), ratio)), (round(each.n_bytes / 1e6, 1), round(ratio, 4)))
    return {name: [point] for name, point in points.items()}


def _noise(evaluations: Sequence[Evaluation]) -> dict[str, list[float | None]]:
    found = {}
    for each in evaluations:
        if layers := each.phases["qdq"].get("layers"):
            found[_version(each.place)] = [layer["sqnr_db"] for layer in layers]
    return dict(list(found.items())[:MOST_LINES])


def _version(of: ProgramKey | Place) -> str:
    """Return the name of a quantised model: that of its model, recipe and context length."""
    return f"{of.model} / {of.recipe} / {of.context_length}"


def _speed(result: dict, figure: str) -> str:
    """Return the median over prompts, and half of the largest spread over repeats."""
    values = [prompt[figure] for prompt in result["prompts"] if prompt.get(figure) is not None]
    if not values:
        return ""
    repeats = result.get("repeats", {}).get("prompts", [])
    spreads = [each[figure]["spread"] for each in repeats if each.get(figure, {}).get("spread") is not None]
    return _shown(statistics.median(values)) + (f" ± {max(spreads) / 2:.3g}" if spreads else "")


def _conversations(result: dict) -> int:
    """Return how many conversations there were. Results of before there could be several do not say."""
    return 1 + max((prompt.get("conversation", 0) for prompt in result["prompts"]), default=0)


def _metrics(evaluation: Evaluation, task: str) -> list[str]:
    contents = evaluation.phases.values()
    return list(dict.fromkeys(metric for content in contents for metric in content.get("tasks", {}).get(task, {})))


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
