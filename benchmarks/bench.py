"""Time and memory of one outer step, all ways side by side in one run: `make bench` prints tables,
writes bench.json, on a GPU bench-cuda.json. Its parts are `speed`, `stacks` (more networks at
once), `whole` (a distillation as a user runs it, in processes of their own), `memory`, `estimators`
(autograd, back-gradient as the paper's code does it and as the package does, one network) and
`race`, how long the paper's accuracies take; each may be named alone. `python benchmarks/bench.py
faithful` (an hour) adds what the paper's settings reach in ten times as long, `rounding` (minutes,
with CIFAR-10) how near float32 and bfloat16 come to the meta-gradient in float64.

Workloads: A, fig3a (LeNet, 10 steps x 3 epochs, 4 networks, 1,024 real images each); B, the same
with AlexCifarNet, one network, 128 real images on a CPU and 1,024 on a GPU; C, fig2a (LeNet, 1 step
x 3 epochs, one network, 256 real images). Ways: the textbook loop (each network a plain module,
torch.autograd.grad with create_graph, default memory layout), the same through the differentiable
optimiser of `higher`, both estimators of the package, back-gradient through torch.compile, with
LeNet's kernel on a CPU, and recorded as one CUDA graph on a GPU. The rounds go through all ways in
turn, so that a noisy machine is noisy for all; the median counts. The differences from the textbook
loop are taken in float64 (in float32 a rounding can switch a ReLU or a maximum). The floor is the
time of the textbook loop's floating-point operations as large matrix products; a way with fewer
operations can fall below it. What is timed in this process has the memory settings of `ddcore run`.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import higher
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ddcore import networks
from ddcore.algorithm import distill, initial_noise
from ddcore.datasets import Dataset, load
from ddcore.distilled import DistilledData
from ddcore.experiments.config import Config
from ddcore.experiments.records import find, here
from ddcore.experiments.run import device_name, environment
from ddcore.networks import AlexCifarNet, LeNet, Network, generator
from ddcore.paper import kept_graphs
from ddcore.recipe import Recipe
from ddcore.support import kernel
from ddcore.support.compiled import CapturedMetaGradient, compiled_steps, is_compiled
from ddcore.support.runtime import set_up
from ddcore.unroll import EAGER, meta_gradient

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
ROUNDS = 5
WORKLOADS = {  # name: network, networks, steps, epochs, real images per network
    "A": (LeNet(), 4, 10, 3, 1024),
    "B": (AlexCifarNet(), 1, 10, 3, 1024 if DEVICE == "cuda" else 128),
    "C": (LeNet(), 1, 1, 3, 256),
}
WHOLE = {"A": (20, 2), "B": (40, 1), "C": (300, 2)}  # outer steps, looks at the validation split
STACKS = (8, 32, 128)  # networks at once
MEMORY_STEPS = (30, 120, 480)  # inner steps of one LeNet
ESTIMATORS = {  # of the meta-gradient of one network
    "autograd": partial(meta_gradient, estimator="autograd"),
    "back-gradient, the paper's": kept_graphs.meta_gradient,
    "back-gradient": meta_gradient,
}
RACES = {  # what `ddcore run` is asked for: the accuracy to reach; the first two are the paper's
    "fig2a -p iterations=8000": 0.9376,
    "fig3a --scale laptop": 0.7728,
    "fig2a": 0.9376,
    "fig3a --scale laptop -p iterations=700": 0.85,
}
RESULTS = Path(__file__).with_name("bench.json" if DEVICE == "cpu" else "bench-cuda.json")


def textbook_module(network: Network) -> nn.Module:
    if isinstance(network, LeNet):
        return nn.Sequential(
            nn.Conv2d(1, 6, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.ReLU(),
            nn.Linear(120, 84),
            nn.ReLU(),
            nn.Linear(84, 10),
        )
    norm = nn.LocalResponseNorm(4, alpha=0.001 / 9, beta=0.75, k=1)
    return nn.Sequential(
        nn.Conv2d(3, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, padding=1),
        norm,
        nn.Conv2d(64, 64, 5, padding=2),
        nn.ReLU(),
        norm,
        nn.MaxPool2d(3, 2, padding=1),
        nn.Flatten(),
        nn.Linear(4096, 384),
        nn.ReLU(),
        nn.Linear(384, 192),
        nn.ReLU(),
        nn.Linear(192, 10),
    )


def build(network: Network, n: int, steps: int, epochs: int, batch: int):
    rng, c, side = torch.Generator().manual_seed(0), network.channels, network.size
    labels = torch.arange(10).expand(steps, 10)
    images = 0.2 * torch.randn(steps, 10, c, side, side, generator=rng)
    distilled = DistilledData(
        images, labels, torch.full((epochs, steps), 0.02), meta={"classes": "0123456789"}
    )
    theta = torch.stack([network.init("xavier", generator(j)) for j in range(n)])
    lead = (n,) if n > 1 else ()
    real = torch.randn(*lead, batch, c, side, side, generator=rng)
    batch = real.to(DEVICE), torch.randint(10, (*lead, batch), generator=rng).to(DEVICE)
    return distilled.to(DEVICE), theta.to(DEVICE), batch


def textbook(
    network: Network, distilled: DistilledData, theta: torch.Tensor, batch
) -> list[torch.Tensor]:
    """The gradients of the images and learning rates, one network after the other."""
    module, total = textbook_module(network).to(theta), [0.0, 0.0]
    names = [name for name, _ in module.named_parameters()]
    shapes = [p.shape for p in module.parameters()]
    images, lrs = (t.clone().requires_grad_() for t in (distilled.images, distilled.lrs))
    for j in range(len(theta)):
        w = [
            p.view(s)
            for p, s in zip(theta[j].split([s.numel() for s in shapes]), shapes, strict=True)
        ]
        w = [p.clone().requires_grad_() for p in w]
        for e, s in distilled.order():
            logits = torch.func.functional_call(
                module, dict(zip(names, w, strict=True)), (images[s],)
            )
            gradients = torch.autograd.grad(
                F.cross_entropy(logits, distilled.labels[s]), w, create_graph=True
            )
            w = [p - lrs[e, s] * g for p, g in zip(w, gradients, strict=True)]
        real = (batch[0][j], batch[1][j]) if len(theta) > 1 else batch
        logits = torch.func.functional_call(module, dict(zip(names, w, strict=True)), (real[0],))
        found = torch.autograd.grad(F.cross_entropy(logits, real[1]), [images, lrs])
        total = [t + g / len(theta) for t, g in zip(total, found, strict=True)]
    return total


def differentiable_optimiser(
    network: Network, distilled: DistilledData, theta: torch.Tensor, batch
) -> torch.Tensor:
    """The same with `higher`, which keeps differentiable copies of a module and its optimiser."""
    module, total = textbook_module(network).to(theta), 0
    images, lrs = (t.clone().requires_grad_() for t in (distilled.images, distilled.lrs))
    for j in range(len(theta)):
        nn.utils.vector_to_parameters(theta[j], module.parameters())
        sgd = torch.optim.SGD(module.parameters(), lr=1.0)
        real = (batch[0][j], batch[1][j]) if len(theta) > 1 else batch
        with higher.innerloop_ctx(module, sgd, copy_initial_weights=False) as (
            stateless,
            optimiser,
        ):
            for e, s in distilled.order():
                loss = F.cross_entropy(stateless(images[s]), distilled.labels[s])
                optimiser.step(loss, override={"lr": [lrs[e, s]]})
            total = total + torch.autograd.grad(
                F.cross_entropy(stateless(real[0]), real[1]), images
            )[0] / len(theta)
    return total


def ways(
    network: Network, distilled: DistilledData, theta: torch.Tensor, batch
) -> dict[str, Callable]:
    given = (network, distilled, theta, batch)
    found = {
        "textbook loop": lambda: textbook(*given)[0],
        "higher": lambda: differentiable_optimiser(*given),
        "autograd": lambda: meta_gradient(*given, estimator="autograd")[1].images,
        "back-gradient": in_pytorch(lambda: meta_gradient(*given)[1].images),
    }
    steps = compiled_steps()

    def compiled() -> torch.Tensor:
        images = meta_gradient(*given, step_functions=steps)[1].images
        if not is_compiled(steps):
            sys.exit("torch.compile fails here, so there is nothing compiled to time")
        return images

    found["back-gradient, compiled"] = in_pytorch(compiled)
    if network.kernel(theta, distilled.images[0]):
        found["back-gradient, kernel"] = lambda: meta_gradient(*given)[1].images
    if DEVICE == "cuda":
        captured = CapturedMetaGradient(network, step_functions=steps)

        def replayed() -> torch.Tensor:
            images = captured(distilled, theta, batch)[1].images
            if captured.replay is None:
                sys.exit("the meta-gradient could not be recorded as a CUDA graph")
            return images

        found["... as one CUDA graph"] = replayed
    return found


def in_pytorch(call: Callable) -> Callable:
    """The same without LeNet's kernel."""

    def without() -> torch.Tensor:
        with kernel.allowed(False):
            return call()

    return without


def seconds(call: Callable) -> float:
    began = time.perf_counter()
    call()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def peak_of_matrix_products() -> float:
    """Floating-point operations per second of a large matrix product."""
    a = torch.randn(2048, 2048, device=DEVICE)
    return 2 * 2048**3 / statistics.median(seconds(lambda: a @ a) for _ in range(7))


def speed() -> dict:
    found, peak = {}, peak_of_matrix_products()
    for name, (network, *sizes) in WORKLOADS.items():
        distilled, theta, (real, labels) = build(network, *sizes)
        small = slice(0, 32)  # real images are enough for the comparison
        batch = (real[..., small, :, :, :].double(), labels[..., small])
        precise = ways(network, distilled.to(torch.float64), theta.double(), batch)
        exact = precise["textbook loop"]()
        errors = {
            way: ((call() - exact).norm() / exact.norm()).item() for way, call in precise.items()
        }
        calls = ways(network, distilled, theta, (real, labels))
        del precise  # with the memory of its graph
        for call in calls.values():
            call()
        rounds = [{way: seconds(call) for way, call in calls.items()} for _ in range(ROUNDS)]
        times = {way: statistics.median(r[way] for r in rounds) for way in calls}
        with FlopCounterMode(display=False) as counter:
            calls["textbook loop"]()
        floor = counter.get_total_flops() / peak
        found[name] = {"seconds": times, "relative_error": errors, "floor_seconds": floor}
        print(f"\nWorkload {name}: {network.name}, {sizes} (networks, steps, epochs, real images)")
        for way, t in times.items():
            ratio = times["textbook loop"] / t
            print(
                f"  {way:24} {1000 * t:9.1f} ms  {ratio:5.2f} x  "
                f"relative difference {errors[way]:.0e}"
            )
        print(f"  {'floor':24} {1000 * floor:9.1f} ms")
    return found


def stacks() -> dict:
    """Networks times inner steps a second, of workload A's outer step with more networks at once:
    what a larger device buys."""
    network, _, *sizes = WORKLOADS["A"]
    inner_steps = sizes[0] * sizes[1]
    found = {}
    for n in STACKS:
        given = build(network, n, *sizes)
        way = CapturedMetaGradient(network) if DEVICE == "cuda" else partial(meta_gradient, network)
        rounds = [seconds(lambda way=way, given=given: way(*given)) for _ in range(ROUNDS + 1)]
        found[n] = n * inner_steps / statistics.median(rounds[1:])
        print(f"{n:4} networks at once: {found[n]:,.0f} networks times inner steps a second")
    return found


def whole() -> dict:
    """A distillation as a user runs it, validation looks included, in processes of their own: the
    textbook loop with PyTorch's defaults, and `distill`, set up as `ddcore run` does. Seconds of
    each process from its start to its end; what is compiled once lies in the cache."""
    found = {}
    for name, (outer_steps, looks) in WHOLE.items():
        rounds = [
            {way: process_seconds(way, name) for way in ("loop", "package")} for _ in range(3)
        ][1:]  # the first compiles
        times = {way: statistics.median(r[way] for r in rounds) for way in rounds[0]}
        found[name] = {"outer_steps": outer_steps, "looks": looks, "seconds": times}
        ratio = times["loop"] / times["package"]
        print(
            f"{name}, {outer_steps} outer steps, looks: {looks}, whole processes: textbook loop "
            f"{times['loop']:.1f} s, package {times['package']:.1f} s, {ratio:.2f} x",
            flush=True,
        )
    return found


def process_seconds(way: str, name: str) -> float:
    command = [sys.executable, __file__, way, name]
    return seconds(lambda: subprocess.run(command, check=True))


def random_dataset(network: Network) -> Dataset:
    rng = torch.Generator().manual_seed(0)
    shape = network.channels, network.size, network.size
    splits = [
        (torch.rand(n, *shape, generator=rng), torch.randint(10, (n,), generator=rng))
        for n in (2_000, 100)
    ]
    return Dataset.from_tensors(*splits)


def package_run(name: str) -> None:
    set_up(DEVICE)
    outer_steps, looks = WHOLE[name]
    network, samples, steps, epochs, batch = WORKLOADS[name]
    recipe = Recipe(iterations=outer_steps, samples=samples, batch=batch, checks=looks)
    data = random_dataset(network).to(DEVICE)
    ways = EAGER if isinstance(network, LeNet) and DEVICE == "cpu" else compiled_steps()
    distill(
        network,
        data,
        "xavier",
        steps=steps,
        epochs=epochs,
        recipe=recipe,
        step_functions=ways,
        progress=False,
    )


def loop_run(name: str) -> None:
    outer_steps, looks = WHOLE[name]
    network, samples, steps, epochs, batch = WORKLOADS[name]
    data = random_dataset(network).to(DEVICE)
    distilled = initial_noise(data, steps, epochs, 1, False, Recipe(first_lr=0.02), 0)
    learned = [distilled.images, distilled.lrs]
    adam = torch.optim.Adam(learned, lr=0.01, betas=(0.5, 0.999))
    for k in range(outer_steps):
        rng = generator(k)
        theta = torch.stack([network.init("xavier", rng) for _ in range(samples)]).to(DEVICE)
        batches = [data.batch(batch, rng) for _ in range(samples)]
        real = tuple(map(torch.stack, zip(*batches, strict=True))) if samples > 1 else batches[0]
        for t, gradient in zip(learned, textbook(network, distilled, theta, real), strict=True):
            t.grad = gradient
        adam.step()
        if (k + 1) % (outer_steps // looks) == 0:
            textbook_accuracy(network, distilled, data)


def textbook_accuracy(network: Network, distilled: DistilledData, data: Dataset) -> float:
    """Of ten networks on the validation split."""
    module = textbook_module(network).to(DEVICE)
    images, labels = data.validation
    correct = 0
    for j in range(10):
        nn.utils.vector_to_parameters(
            network.init("xavier", generator(j)).to(DEVICE), module.parameters()
        )
        for e, s in distilled.order():
            loss = F.cross_entropy(module(distilled.images[s]), distilled.labels[s])
            for p, g in zip(
                module.parameters(),
                torch.autograd.grad(loss, list(module.parameters())),
                strict=True,
            ):
                p.data -= distilled.lrs[e, s] * g
        with torch.no_grad():
            chunks = zip(images.split(1000), labels.split(1000), strict=True)
            correct += sum((module(x).argmax(1) == y).sum().item() for x, y in chunks)
    return correct / (10 * len(labels))


def memory() -> dict:
    """Peak memory beyond that of three steps, as the system counts it (to a few MB), each in a
    process of its own."""
    found = {}
    for estimator in ESTIMATORS:
        for steps in MEMORY_STEPS:
            command = [sys.executable, __file__, estimator, str(steps)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[f"{estimator} {steps}"] = float(done.stdout)
    print(
        "\nPeak memory of one LeNet beyond that of three steps [MB]; one weight vector is 0.25 MB"
    )
    print(f"  {'steps':26}" + "".join(f"{s:8}" for s in MEMORY_STEPS))
    for estimator in ESTIMATORS:
        print(
            f"  {estimator:26}" + "".join(f"{found[f'{estimator} {s}']:8.1f}" for s in MEMORY_STEPS)
        )
    return found


def one_memory(estimator: str, steps: int) -> float:
    def peak() -> float:
        if DEVICE == "cuda":
            return torch.cuda.max_memory_allocated() / 1e6
        status = Path("/proc/self/status").read_text()  # getrusage would count the parent's peak
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1e3

    network = LeNet()
    with kernel.allowed(False):
        ESTIMATORS[estimator](network, *build(network, 1, 1, 1, 64))
        three_steps = peak()
        ESTIMATORS[estimator](network, *build(network, 1, steps // 3, 3, 64))
    return peak() - three_steps


def estimators() -> dict:
    """Seconds of one network's meta-gradient over 30 steps on ten images, 64 real images, all in
    PyTorch as they stand; the package's also compiled, which the others cannot be."""
    found = {}
    for network in (LeNet(), AlexCifarNet()):
        given = (network, *build(network, 1, 10, 3, 64))
        calls = {way: in_pytorch(partial(call, *given)) for way, call in ESTIMATORS.items()}
        steps = compiled_steps()
        calls["back-gradient, compiled"] = in_pytorch(
            partial(meta_gradient, *given, step_functions=steps)
        )
        for call in calls.values():
            call()
        rounds = [{way: seconds(call) for way, call in calls.items()} for _ in range(ROUNDS)]
        found[network.name] = {way: statistics.median(r[way] for r in rounds) for way in calls}
        print(f"\n{network.name}, 30 steps")
        for way, t in found[network.name].items():
            print(f"  {way:26} {1000 * t:9.1f} ms  {found[network.name]['autograd'] / t:5.2f} x")
    return found


def race() -> dict:
    """Workload D: the default recipe to the paper's accuracy, in whole processes that find nothing
    compiled."""
    found = {}
    for asked, goal in RACES.items():
        took, record = whole_process(*asked.split())
        before = took - record["environment"]["seconds"]  # the outer loop's clock starts
        history = record["distillation"]["history"]
        first = next((h["seconds"] + before for h in history if h["accuracy"] >= goal), None)
        found[asked] = {
            "seconds": took,
            **accuracy(record),
            "goal": goal,
            "seconds_to_goal_on_validation": first,
        }
        found[asked]["seconds_of_a_faithful_step"] = one_faithful_step(record["config"])
        when = "not reached" if first is None else f"after {first:.0f} s"
        print(f"{asked}: {took:.0f} s, test accuracy {100 * found[asked]['mean']:.2f} %")
        print(f"  {100 * goal:.2f} % on the validation images {when}", flush=True)
    return found


def faithful() -> dict:
    """What the paper's settings (`faithful=true`) reach in ten times the race's seconds, all of
    their schedule in as many outer steps as would fit. The number of these follows from bench.json,
    so the machine may be busy meanwhile."""
    raced, found = json.loads(RESULTS.read_text("utf-8")).get("race"), {}
    if raced is None:
        sys.exit(f"{RESULTS.name} has no race, whose seconds this multiplies: run `race` first")
    for asked in list(RACES)[:2]:
        name = asked.split()[0]
        budget = 10 * raced[asked]["seconds"]
        iterations = int(budget / raced[asked]["seconds_of_a_faithful_step"])
        _, record = whole_process(name, "-p", "faithful=true", "-p", f"iterations={iterations}")
        found[name] = {"iterations": iterations, "seconds": budget, **accuracy(record)}
        print(
            f"{name}, {iterations} outer steps: test accuracy {100 * found[name]['mean']:.2f} %",
            flush=True,
        )
    return found


def one_faithful_step(config: dict) -> float:
    """Seconds of an outer step with the paper's settings: one LeNet, 1,024 real images."""
    given = build(LeNet(), 1, config["steps"], config["epochs"], 1024)
    rounds = [seconds(lambda: meta_gradient(LeNet(), *given)) for _ in range(ROUNDS + 1)]
    return statistics.median(rounds[1:])


def rounding() -> dict:
    """The cosine between the meta-gradient in float64 and in fewer bits, of single networks and of
    their mean, where Fig. 3b's outer loop starts and where it ended; and the seconds of an outer
    step of one network, compiled."""
    record, copy = find("fig3b"), here("cifar10")
    if not copy:
        sys.exit("rounding needs CIFAR-10: `ddcore data` says how to get it")
    data, c, last = load(copy).to(DEVICE), Config(**record.config), record.distilled.to(DEVICE)
    first = initial_noise(data, c.steps, c.epochs, c.per_class, c.soft_labels, c.recipe, c.seed)
    network, samples = AlexCifarNet(), [generator(j) for j in range(4)]
    thetas = [network.init(c.init, rng)[None].to(DEVICE) for rng in samples]
    batches = [data.batch(c.batch, rng) for rng in samples]

    def gradients(distilled: DistilledData) -> torch.Tensor:
        """Of the images [networks, images' shape], in the distilled data's type."""
        kind = distilled.images.dtype
        given = [
            (theta.to(kind), (x.to(kind), y)) for theta, (x, y) in zip(thetas, batches, strict=True)
        ]
        return torch.stack([meta_gradient(network, distilled, *one)[1].images for one in given])

    found = {"dataset": copy, "cosines": {}, "seconds": {}}
    for where, distilled in {"first images": first, "last images": last}.items():
        exact = gradients(distilled.to(torch.float64)).flatten(1)
        for bits, layers in BITS.items():
            with patch.dict(vars(networks), layers):
                near = gradients(distilled).double().flatten(1)
            each = F.cosine_similarity(near, exact)
            mean = F.cosine_similarity(near.mean(0), exact.mean(0), dim=0).item()
            found["cosines"][f"{where}, {bits}"] = {"each": each.tolist(), "mean": mean}
            print(
                f"{where}, {bits}: cosine {each.min():.2f} to {each.max():.2f}, "
                f"of the mean {mean:.2f}",
                flush=True,
            )
    compiled = compiled_steps()

    def outer_step(layers: dict) -> None:
        with patch.dict(vars(networks), layers):
            meta_gradient(network, last, thetas[0], batches[0], step_functions=compiled)

    for layers in BITS.values():
        outer_step(layers)
    rounds = [
        {bits: seconds(partial(outer_step, layers)) for bits, layers in BITS.items()}
        for _ in range(ROUNDS)
    ]
    for bits in BITS:
        found["seconds"][bits] = statistics.median(r[bits] for r in rounds)
        print(f"an outer step of one network, {bits}: {1000 * found['seconds'][bits]:.0f} ms")
    return found


def in_bfloat16(layer: Callable) -> Callable:
    """The layer computed with bfloat16 numbers, its result in float32."""
    return lambda x, weight, bias, **more: layer(
        *(t.bfloat16() for t in (x, weight, bias)), **more
    ).float()


BITS = {  # what stands in for the layers of ddcore.networks
    "float32": {},
    "bfloat16 inside convolutions": {"conv": in_bfloat16(networks.conv)},
    "bfloat16 inside linear layers too": {
        n: in_bfloat16(getattr(networks, n)) for n in ("conv", "linear")
    },
}


def whole_process(*asked: str) -> tuple[float, dict]:
    """Wall seconds of `ddcore run` with an empty cache of compiled code, and its record."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = {
            "DDCORE_RESULTS": f"{folder}/results",
            "TORCHINDUCTOR_CACHE_DIR": f"{folder}/compiled",
        }
        command = [sys.executable, "-m", "ddcore", "run", *asked, "--device", DEVICE, "--force"]
        command += ["--checkpoints", folder]
        began = time.perf_counter()
        done = subprocess.run(
            command, env=os.environ | fresh, stdout=subprocess.PIPE, text=True, check=True
        )
        took = time.perf_counter() - began
        return took, json.loads(
            Path(done.stdout.splitlines()[-1], "record.json").read_text("utf-8")
        )


def accuracy(record: dict) -> dict:
    return {n: record["metrics"]["test_accuracy"][n] for n in ("mean", "std", "n")}


PARTS = {
    "speed": speed,
    "stacks": stacks,
    "whole": whole,
    "memory": memory,
    "estimators": estimators,
    "race": race,
    "faithful": faithful,
    "rounding": rounding,
}


def main() -> None:
    if len(sys.argv) == 3 and sys.argv[2].isdigit():
        print(one_memory(sys.argv[1], int(sys.argv[2])))
        return
    if len(sys.argv) == 3 and sys.argv[2] in WORKLOADS:
        {"loop": loop_run, "package": package_run}[sys.argv[1]](sys.argv[2])
        return
    set_up(DEVICE)
    machine = environment([device_name(DEVICE)], True) | {
        "instructions": torch.backends.cpu.get_cpu_capability()
    }
    print(
        f"{machine['device']}, {machine['instructions']}, {machine['threads']} threads, "
        f"torch {machine['torch']}"
    )
    parts = sys.argv[1:] or ["speed", "stacks", "whole", "memory", "estimators", "race"]
    if unknown := set(parts) - PARTS.keys():
        sys.exit(f"{unknown.pop()} is no part of the benchmark; allowed: {', '.join(PARTS)}")
    for part in parts:
        found = {"machine": machine, **PARTS[part]()}
        done = json.loads(RESULTS.read_text("utf-8")) if RESULTS.exists() else {}
        RESULTS.write_text(json.dumps(done | {part: found}, indent=1) + "\n", "utf-8")
        print(f"\nwritten {RESULTS.name}")


if __name__ == "__main__":
    main()
