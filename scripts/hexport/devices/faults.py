"""What goes wrong with a phone, by who may still do the work."""

from hexport.errors import HexportError

SAID_LETTERS = 200


class PhoneFault(HexportError):
    """This phone cannot do the work; another one of the same SoC may."""


class PassingFault(PhoneFault):
    """The same phone may do it on another try: the link broke, a file was damaged on the way, the adb server went."""


def said_by_phone(said: str) -> str:
    """What a phone said, as a part of one line of a message."""
    return "".join(character for character in said if character.isprintable()).strip()[:SAID_LETTERS]
