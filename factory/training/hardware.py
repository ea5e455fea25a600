"""What a run trains on: device, precision, memory layout, compilation; "auto" is decided here."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import nn

from factory.core.errors import InputError
from factory.core.progress import Progress
from factory.training.config import TrainConfig

COMPILE_MIN_STEPS = 5000  # below, compiling takes longer than it saves


@dataclass(frozen=True)
class Hardware:
    """The decided settings."""

    device: torch.device
    bf16: bool
    channels_last: bool
    compile: bool

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """bf16 where it is on, else nothing."""
        if not self.bf16:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def describe(self) -> dict[str, object]:
        """For the result file."""
        name = (
            torch.cuda.get_device_name(self.device)
            if self.device.type == "cuda"
            else self.device.type
        )
        return {
            "device": name,
            "precision": "bf16" if self.bf16 else "fp32",
            "channels_last": self.channels_last,
            "compile": self.compile,
            "threads": torch.get_num_threads(),
        }


def choose_device(name: str) -> torch.device:
    """The device called ``name``; "auto" is the current accelerator, else the CPU."""
    if name == "auto":
        found = (
            torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        )
        return found or torch.device("cpu")
    try:
        device = torch.device(name)
        if device.type != "cpu":
            torch.empty(1, device=device)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        raise InputError(
            f"cannot train on device {name!r}",
            why=(str(error) or "it is not there").splitlines()[0],
            fix='set training.device = "auto" or "cpu"',
        ) from None
    return device


def choose_hardware(cfg: TrainConfig, total_steps: int) -> Hardware:
    """Decide every "auto" of ``cfg``."""
    device = choose_device(cfg.device)
    cuda = device.type == "cuda"
    bf16 = cfg.precision == "bf16" or (
        cfg.precision == "auto" and cuda and torch.cuda.is_bf16_supported()
    )
    channels_last = (
        device.type in ("cpu", "cuda") if cfg.channels_last == "auto" else cfg.channels_last
    )
    # Drop path changes a number every epoch, which would compile the network anew.
    compiled = (
        cuda and total_steps >= COMPILE_MIN_STEPS and cfg.drop_path == 0
        if cfg.compile == "auto"
        else cfg.compile
    )
    return Hardware(device, bf16, channels_last, compiled)


class CompiledOrEager:
    """Calls the compiled network; where the compiler fails on the first batch, the plain one."""

    def __init__(self, network: nn.Module, hardware: Hardware, progress: Progress) -> None:
        self.network, self.progress = network, progress
        self._call = torch.compile(network) if hardware.compile else network
        self._proven = not hardware.compile

    def __call__(self, x: torch.Tensor) -> object:
        """Forward; the first call proves the compiler."""
        if self._proven:
            return self._call(x)
        try:
            output = self._call(x)
        except Exception as error:  # the compiler's back ends raise whatever they like
            reason = (str(error) or type(error).__name__).splitlines()[0]
            self.progress.message(f"torch.compile failed, training goes on without it: {reason}")
            self._call = self.network
            output = self._call(x)
        self._proven = True
        return output
