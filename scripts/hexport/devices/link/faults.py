"""This module has the errors of phones, told apart by who may still do the work."""

from hexport.errors import HexportError

SAID_LETTERS = 200


class PhoneFault(HexportError):
    """This phone cannot do the work; another one of the same SoC may."""


class PassingFault(PhoneFault):
    """The same phone may do the work on another try: the link broke, a file was damaged on the way, the adb server
    went.
    """


def said_by_phone(said: str) -> str:
    """Return what a phone said as a part of one line of a message: printable characters, SAID_LETTERS at most."""
    return "".join(character for character in said if character.isprintable()).strip()[:SAID_LETTERS]
