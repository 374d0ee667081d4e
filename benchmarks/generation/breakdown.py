"""Where the time of our passes goes, printed: the host's functions, and on a GPU its kernels."""

from __future__ import annotations

import cProfile
import io
import pstats
import traceback
from typing import Any

import torch

from bavt_fast.protocols import Node, StepRequest
from benchmarks.generation.models import Subject
from benchmarks.generation.search import OurSearch

_LINES = 25


def print_breakdown(ours: OurSearch, subject: Subject, asks: int) -> None:
    """A round by the host's functions, some passes by the device's kernels. What fails is told and left out."""
    try:
        print(host_functions(ours), flush=True)
        if subject.device.type == "cuda":
            print(device_kernels(subject, asks), flush=True)
    except Exception:
        traceback.print_exc()


def host_functions(ours: OurSearch) -> str:
    """Of a round, by their own time. It takes longer than without the look at it."""
    profile = cProfile.Profile()
    profile.enable()
    try:
        ours.round()
    finally:
        profile.disable()
    text = io.StringIO()
    pstats.Stats(profile, stream=text).strip_dirs().sort_stats("tottime").print_stats(_LINES)
    return text.getvalue()


def device_kernels(subject: Subject, asks: int, collects: int = 12) -> str:
    """Of as many asks in flight as there are rows, each step's next one in its place."""
    from torch.profiler import ProfilerActivity, profile

    generator = subject.generator(asks)
    nodes = [Node(None, subject.prompt_of(question)) for question in subject.asked(0, asks)]
    out: dict[int, Any] = {}

    def submit(numbered: list[tuple[int, Node]]) -> None:
        out.update(numbered)
        requests = [StepRequest(node, ticket) for ticket, node in numbered]
        count = len(numbered)
        generator.submit([ticket for ticket, _ in numbered], requests, [1] * count, [24] * count)

    def go_on(times: int) -> None:
        for _ in range(times):
            again = []
            for ticket, answer in generator.collect():
                node = out.pop(ticket)
                if isinstance(answer, list) and answer:
                    again.append((ticket + asks, Node(None, None, node, answer[0])))
            submit(again)

    submit(list(enumerate(nodes)))
    go_on(8)
    before = generator.statistics().decode_passes
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as profiled:
        go_on(collects)
        torch.cuda.synchronize(subject.device)
    passes = generator.statistics().decode_passes - before
    generator.discard(list(out))
    table = profiled.key_averages().table(sort_by="self_cuda_time_total", row_limit=_LINES, max_name_column_width=70)
    return f"{passes} passes that decode:\n{table}"
