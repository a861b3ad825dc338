"""Calls in a process of their own, whose emulator poses as another device: a process asks for its device once."""

import concurrent.futures
import multiprocessing
import os
from unittest import mock


class Posing:
    """A process that sees a device of some compute capability, with so many multiprocessors."""

    def __init__(self, capability: str, sms: int):
        self._pool = concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        settings = {"CAPABILITY": capability, "SMS": str(sms)}
        with mock.patch.dict(os.environ, {f"JAX_FLASH_MLA_EMULATOR_{name}": value for name, value in settings.items()}):
            self._pool.submit(os.getpid).result()  # it starts with this environment

    def __call__(self, function, *arguments, **options):
        """What a function of a module returns there, or its exception."""
        return self._pool.submit(function, *arguments, **options).result()

    def close(self):
        self._pool.shutdown()
