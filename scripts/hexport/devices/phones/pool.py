"""This module gives work to any phone of a SoC: to the first free one, to the same again after a passing fault, and to
another one after a fault of the phone.
"""

import itertools
import os
import time
from collections.abc import Callable
from typing import TypeVar

from hexport.devices.link.adb import Phone
from hexport.devices.link.faults import PassingFault, PhoneFault
from hexport.devices.phones import leases
from hexport.devices.phones.leases import Lease
from hexport.progress import Progress

T = TypeVar("T")
TRIES = 3
ONLINE_S = 60.0  # a phone whose link broke has to be back within this time, as after a restart
SOON_S = 15.0  # the same where another phone can do the work; an adb server dials a lost one every 10 s
POLL_S = 0.2
SAY_S = 10.0


def on_a_phone(phones: list[Phone], work: Callable[[Phone], T], progress: Progress) -> T:
    """Do the work on one phone of a SoC, which nobody else uses meanwhile, and return its result.

    A phone that fails is set aside for a while, for all processes of this user, and the work begins anew on another
    one. Raises PhoneFault when each phone has failed, with the reason of each. Any other error of the work is raised at
    once, since another phone would not spare us that.
    """
    faults: dict[Phone, PhoneFault] = {}
    while untried := [phone for phone in phones if phone not in faults]:
        with _first_free(untried, progress) as lease:
            try:
                result = _tried(lease.phone, work, ONLINE_S if len(untried) == 1 else SOON_S, progress)
            except PhoneFault as fault:
                faults[lease.phone] = fault
                lease.set_aside(str(fault))
                if len(untried) > 1:
                    progress.say(f"{fault} (set aside; the work goes to another phone)")
            else:
                lease.trust()
                return result
    if len(faults) == 1:
        raise faults.popitem()[1]
    raise PhoneFault("; ".join(str(fault) for fault in faults.values()))


def _tried(phone: Phone, work: Callable[[Phone], T], online_s: float, progress: Progress) -> T:
    for attempt in itertools.count(1):
        try:
            return work(phone)
        except PassingFault as fault:
            if attempt == TRIES:
                raise
            progress.say(f"{fault} (try {attempt + 1} of {TRIES} follows)")
        phone.check_online(online_s)


def _first_free(phones: list[Phone], progress: Progress) -> Lease:
    said, next_line = "", 0.0
    while True:
        for phone in _preferred(phones):
            if lease := leases.lease(phone):
                if phone in _preferred(phones):
                    return lease
                lease.release()  # its last holder has set it aside
        if time.monotonic() >= next_line and (line := _who_holds(phones)):
            if line != said:
                progress.say(f"waiting for a phone: {line}")
            said, next_line = line, time.monotonic() + SAY_S
        time.sleep(POLL_S)


def _preferred(phones: list[Phone]) -> list[Phone]:
    """Return the phones that are not set aside, or all if all of them are; each process begins with another one."""
    start = os.getpid() % len(phones)
    rotated = phones[start:] + phones[:start]
    return [phone for phone in rotated if not leases.set_aside(phone)] or rotated


def _who_holds(phones: list[Phone]) -> str:
    states = []
    for phone in phones:
        if user := leases.holder(phone):
            states.append(f"{phone.name} is used by {user}")
        elif leases.set_aside(phone):
            states.append(f"{phone.name} is set aside")
    return "; ".join(states)
