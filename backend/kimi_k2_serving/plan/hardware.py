"""GPUs as their drivers and data sheets describe them, and the links between them.

Memory is the total that nvidia-smi reports, in MiB; a vendor's GB is another unit. Bandwidth and operations per second
are the data sheets' dense maxima (B200's bandwidth is the one that its driver reports), which no program reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

from kimi_k2_serving.core.errors import InvalidValue


@dataclass(frozen=True, slots=True)
class Link:
    """What an all-reduce over this link takes: a start, then bytes. Estimates from published all-reduce timings.

    Small messages, those of a decode step, move at `small`, the megabytes of a prefill chunk at `large` bytes a second.
    """

    start_seconds: float
    small: float
    large: float


NVLINK = Link(8e-6, 300e9, 400e9)
INFINIBAND = Link(40e-6, 46e9, 200e9)


@dataclass(frozen=True, slots=True)
class Accelerator:
    """`across` is the link between the nodes; `per_node` the GPUs of the usual node; operations are per second."""

    name: str
    memory_mib: int
    bandwidth: float
    fp8_operations: float
    bf16_operations: float
    capability: tuple[int, int]
    per_node: int
    across: Link = INFINIBAND

    @property
    def memory_bytes(self) -> int:
        return self.memory_mib * 2**20

    @property
    def is_blackwell(self) -> bool:
        return self.capability >= (10, 0)


ACCELERATORS = (
    Accelerator("h100", 81_559, 3.35e12, 1.979e15, 0.989e15, (9, 0), 8),
    Accelerator("h200", 143_771, 4.8e12, 1.979e15, 0.989e15, (9, 0), 8),
    Accelerator("b200", 183_359, 7.67e12, 4.5e15, 2.25e15, (10, 0), 8),
    # Up to 72 GPUs share one NVLink network.
    Accelerator("gb200", 189_471, 8.0e12, 5.0e15, 2.5e15, (10, 0), 4, NVLINK),
)


@dataclass(frozen=True, slots=True)
class Hardware:
    """`gpus` GPUs in total, on `nodes` nodes."""

    accelerator: Accelerator
    gpus: int
    nodes: int

    @property
    def link(self) -> Link:
        return NVLINK if self.nodes == 1 else self.accelerator.across

    def __str__(self) -> str:
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes} nodes"
        return f"{self.gpus} x {self.accelerator.name.upper()} on {nodes}"


def find_accelerator(name: str) -> Accelerator:
    known = {each.name: each for each in ACCELERATORS}
    if name.lower() not in known:
        raise InvalidValue(f"no data for {name!r}; one of: {', '.join(known)}", field="gpu")
    return known[name.lower()]


def hardware_of(name: str, gpus: int, nodes: int | None = None) -> Hardware:
    """`gpus` in total. Without `nodes`, as many as the usual node of this GPU needs."""
    accelerator = find_accelerator(name)
    if gpus < 1:
        raise InvalidValue("must be at least 1", field="gpus")
    count = -(-gpus // accelerator.per_node) if nodes is None else nodes
    if count < 1 or gpus % count:
        raise InvalidValue(f"{gpus} GPUs can't be spread evenly over {count} nodes", field="nodes")
    return Hardware(accelerator, gpus, count)
