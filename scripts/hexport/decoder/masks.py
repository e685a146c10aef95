"""This module has the values of additive attention masks, float32 (1, 1, AR, CL).

Their columns are first the cache slots, then the AR tokens of the current call.
"""

from hexport.programs.abi import MASKS

MASKED = -255.0  # far below any attention score, but near enough that 16 bits still resolve the scores
ATTEND = 0.0
MASK = MASKS[0]  # the mask's quantisation point has this name, too
