"""How busy the machine of a worker is, under the names that MLflow's tab "System metrics" shows."""

from __future__ import annotations

from pathlib import Path

import torch

from components.training.usage.energy import watts

MB = 1e6


class Machine:
    """CPU use since the last reading, traffic since the first. Without psutil (a bare box) only the GPU is told."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """folder: on the disk whose use is told."""
        self._folder, self._device = folder, device
        self._network = _network()
        self.readings()  # the first is what later ones are counted from

    def readings(self) -> dict[str, float]:
        """`system/cpu_utilization_percentage` and so on; what cannot be read is left out."""
        return {f"system/{name}": value for name, value in {**self._host(), **self._gpu()}.items()}

    def _host(self) -> dict[str, float]:
        try:
            import psutil
        except ImportError:
            return {}
        memory, disk = psutil.virtual_memory(), psutil.disk_usage(str(self._folder))
        received, sent = _network()
        return {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_megabytes": memory.used / MB,
            "system_memory_usage_percentage": memory.percent,
            "disk_usage_percentage": disk.percent,
            "disk_available_megabytes": disk.free / MB,
            "network_receive_megabytes": (received - self._network[0]) / MB,
            "network_transmit_megabytes": (sent - self._network[1]) / MB,
        }

    def _gpu(self) -> dict[str, float]:
        if self._device.type != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info(self._device)
        number = torch.cuda.current_device() if self._device.index is None else self._device.index
        told = {
            "memory_usage_megabytes": (total - free) / MB,
            "memory_usage_percentage": 100 * (total - free) / total,
        }
        power_w = watts(self._device)
        if power_w is not None:  # then NVML is there to say the other too
            told["power_usage_watts"] = power_w
            told["utilization_percentage"] = float(torch.cuda.utilization(self._device))
        return {f"gpu_{number}_{name}": value for name, value in told.items()}


def _network() -> tuple[float, float]:
    try:
        import psutil
    except ImportError:
        return 0.0, 0.0
    counted = psutil.net_io_counters()
    return (counted.bytes_recv, counted.bytes_sent) if counted else (0.0, 0.0)
