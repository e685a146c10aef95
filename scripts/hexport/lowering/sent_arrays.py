"""This module sends arrays to the compiler's process, from their place in one process to their place in the other."""

from multiprocessing.connection import Connection

import numpy as np

from hexport.child import Child, receive_buffer


def send_array(child: Child, array: np.ndarray) -> None:
    """Send an array for `receive_array`. Where it is contiguous, no copy of it is made on the way."""
    child.send((array.dtype.str, array.shape))
    child.send_buffer(_bytes(np.ascontiguousarray(array)))


def receive_array(connection: Connection) -> np.ndarray:
    """Receive, in the child, what `send_array` sent. Raises EOFError where the parent ends."""
    dtype, shape = connection.recv()
    array = np.empty(shape, dtype)
    receive_buffer(connection, _bytes(array))
    return array


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1)).cast("B")
