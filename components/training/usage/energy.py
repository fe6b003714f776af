"""Energy a training took, where a driver counts it; nothing is estimated where none does."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

POWERCAP = Path("/sys/class/powercap")


class Energy:
    """Joules since it was made: of this worker's GPU, and of the machine's CPU packages.

    Packages are counted as a whole (RAPL knows no processes) and by the machine's first worker alone; most systems let
    only root read them. A GPU's power is read at each report and taken as constant between two.
    """

    def __init__(self, device: torch.device, folder: Path = POWERCAP) -> None:
        first = os.environ.get("LOCAL_RANK", "0") == "0"
        self._packages = [_Package(each) for each in _packages(folder)] if first else []
        self._device = device if device.type == "cuda" else None
        self._gpu_j, self._read_s = 0.0, time.monotonic()

    def joules(self) -> float | None:
        """Joules so far; None where no driver gives any."""
        power_w = watts(self._device) if self._device is not None else None
        now_s = time.monotonic()
        if power_w is not None:
            self._gpu_j += power_w * (now_s - self._read_s)
        self._read_s = now_s
        if power_w is None and not self._packages:
            return None
        return self._gpu_j + sum(package.joules() for package in self._packages)


def watts(device: torch.device) -> float | None:
    """What a GPU draws now; None where NVML's Python door is not installed or does not answer."""
    try:
        return torch.cuda.power_draw(device) / 1000
    except (ImportError, RuntimeError, OSError):
        return None
    except Exception as error:  # NVML's own errors have no class without NVML
        if type(error).__module__.startswith("pynvml"):
            return None
        raise


class _Package:
    """One CPU package's counter of microjoules, which starts anew at its range's end."""

    def __init__(self, folder: Path) -> None:
        self._counter = folder / "energy_uj"
        self._range_uj = int((folder / "max_energy_range_uj").read_text())
        self._last_uj, self._sum_uj = int(self._counter.read_text()), 0

    def joules(self) -> float:
        now_uj = int(self._counter.read_text())
        self._sum_uj += (now_uj - self._last_uj) % (self._range_uj + 1)
        self._last_uj = now_uj
        return self._sum_uj / 1e6


def _packages(folder: Path) -> list[Path]:
    """The packages' folders, not those of their parts (core, dram), that this process may read."""
    found = [each for each in sorted(folder.glob("*-rapl:*")) if each.name.count(":") == 1]
    return [
        each
        for each in found
        if (each / "name").exists()
        and (each / "name").read_text().startswith("package")
        and os.access(each / "energy_uj", os.R_OK)
    ]
