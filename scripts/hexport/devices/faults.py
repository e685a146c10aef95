"""What goes wrong with a phone, by who may still do the work."""

from hexport.errors import HexportError


class PhoneFault(HexportError):
    """This phone cannot do the work; another one of the same SoC may."""


class PassingFault(PhoneFault):
    """The same phone may do it on another try: the link broke, a file was damaged on the way, the adb server went."""
