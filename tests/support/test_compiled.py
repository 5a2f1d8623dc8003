"""Steps that are compiled, and a meta-gradient that is recorded, against those that stand as they
are."""

import _ctypes
import contextlib
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch._inductor.config
from filelock import FileLock
from test_unroll import (
    ALEXCIFARNET,
    CASES,
    SIMPLEST,
    SOFT_LABELS,
    STEPS_AND_EPOCHS,
    inputs,
    needs_cuda,
    relative_errors,
)

from ddcore.networks import AlexCifarNet, LeNet
from ddcore.support.compiled import (
    CapturedMetaGradient,
    Compiled,
    compiled_steps,
    is_compiled,
    remove_unfinished_libraries,
)
from ddcore.unroll import EAGER, cross_entropy, meta_gradient


class TestCompiledSteps:
    @pytest.mark.slow
    def test_compiled_steps_agree_with_eager_ones(self):
        agree(SOFT_LABELS)

    @pytest.mark.slow
    @pytest.mark.skipif(torch.__version__ < "2.7", reason="PyTorch 2.6 does not compile them")
    def test_those_of_a_network_without_a_kernel_too(self):
        """Without vectors, which halves the time of compiling."""
        with for_any_processor():
            agree(ALEXCIFARNET)

    def test_where_compiling_fails_steps_run_as_they_stand(self, monkeypatch, capsys, tmp_path):
        no_compiler = str(tmp_path / "no-compiler")
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))  # nothing compiled earlier
        steps = compiled_steps()
        assert is_compiled(steps)
        assert not is_compiled(EAGER)
        given = inputs(SIMPLEST)
        _, expected = meta_gradient(SIMPLEST.network, *given, step_functions=EAGER)
        with quickly(), torch._inductor.config.patch({"cpp.cxx": (None, no_compiler)}):
            _, found = meta_gradient(SIMPLEST.network, *given, step_functions=steps)
        assert torch.equal(found.images, expected.images)
        assert not is_compiled(steps)
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 2
        assert all(line.startswith("running without torch.compile") for line in lines), lines

    def test_a_compiler_that_fails_without_a_word_is_named(self, capsys):
        def mute(*_):
            raise AssertionError

        def step(network, x):
            return torch.exp(x)

        compiled = Compiled(step)
        compiled.call = torch.compile(step, backend=mute)
        assert compiled(LeNet(), torch.zeros(1)) == 1
        assert "slower: AssertionError" in capsys.readouterr().err


def agree(case) -> None:
    """Compiled steps give the meta-gradient that eager ones give."""
    if not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("no C++ compiler")
    steps = compiled_steps()
    given = inputs(case)
    _, expected = meta_gradient(case.network, *given, step_functions=EAGER)
    _, found = meta_gradient(case.network, *given, step_functions=steps)
    assert is_compiled(steps)  # not fallen back
    assert max(relative_errors(found, expected).values()) < 1e-9


class TestUnfinishedLibraries:
    """A process that is killed while it compiles leaves part of a library."""

    @pytest.fixture
    def library(self, monkeypatch, tmp_path):
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        library = tmp_path / "ab" / "cabc.main.so"
        library.parent.mkdir()
        shutil.copy(_ctypes.__file__, library)
        return library

    @pytest.mark.parametrize("left", [0, 40, 1000], ids=lambda left: f"{left} bytes")
    def test_they_are_removed_and_named(self, library, capsys, left):
        os.truncate(library, left)
        remove_unfinished_libraries()
        assert not library.exists()
        assert str(library) in capsys.readouterr().err

    def test_whole_ones_stay(self, library, capsys):
        remove_unfinished_libraries()
        assert library.exists()
        assert capsys.readouterr().err == ""

    def test_one_that_another_process_writes_stays(self, library, tmp_path):
        os.truncate(library, 1000)
        with FileLock(tmp_path / "locks" / "cabc.lock"):
            remove_unfinished_libraries()
        assert library.exists()

    @pytest.mark.slow
    def test_the_next_start_compiles_them_anew(self, monkeypatch, tmp_path):
        """Loading part of a library would end the process with a bus error."""
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
        with quickly():
            compile_a_step()
            left = list(tmp_path.glob("*/*.so"))
            for library in left:
                part = library.read_bytes()[:1000]
                library.unlink()  # this process still has the whole one in use
                library.write_bytes(part)
            code = "import test_compiled as t; t.quickly().__enter__(); t.compile_a_step()"
            paths = map(str, [Path(__file__).parent, Path(__file__).parents[1], Path.cwd()])
            again = subprocess.run(
                [sys.executable, "-c", code],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                capture_output=True,
                text=True,
            )
        assert again.returncode == 0, again.stderr
        said = "compiling anew what a killed process left"
        assert left and again.stderr.count(said) == len(left)


def for_any_processor(**settings: Any) -> contextlib.AbstractContextManager:
    """Compile without trying out what this processor has. Settings that this PyTorch does not know
    are passed over."""
    config = torch._inductor.config
    known = {name: value for name, value in settings.items() if hasattr(config, name)}
    return config.patch({"cpp.vec_isa_ok": True, "cpp.simdlen": 1, **known})


def quickly() -> contextlib.AbstractContextManager:
    """Compile a single step: headers are not worth preparing for it."""
    return for_any_processor(cpp_cache_precompile_headers=False)


def compile_a_step() -> None:
    compiled_steps()
    step = Compiled(lambda network, x: x.exp() + x.sin())
    assert step(LeNet(), torch.zeros(100)).sum() == 100
    assert step.call is not step.step


def played_by_the_cpu(captured: CapturedMetaGradient, monkeypatch) -> None:
    """In place of a CUDA graph, one whose replay calls what was recorded again and overwrites its
    result."""
    plain = captured.plain
    recorded = SimpleNamespace(given=(), result=())

    def record(*given):
        recorded.given = given
        recorded.result = plain(*given)
        return recorded.result

    def replay():
        losses, gradient = recorded.result
        again, moved = plain(*recorded.given)
        losses.copy_(again)
        for name, place in gradient.learned().tensors().items():
            place.copy_(getattr(moved, name))

    stream = SimpleNamespace(wait_stream=lambda other: None)
    captured.plain = record
    for name in ("stream", "graph"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, **__: contextlib.nullcontext())
    for name in ("Stream", "current_stream"):
        monkeypatch.setattr(torch.cuda, name, lambda device: stream)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: SimpleNamespace(replay=replay))


class TestCapturedMetaGradient:
    @pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
    @pytest.mark.parametrize("case", CASES)
    def test_it_is_the_meta_gradient_of_its_arguments(self, case, device, monkeypatch, capsys):
        captured = CapturedMetaGradient(case.network, case.objective)
        if device == "cpu":
            played_by_the_cpu(captured, monkeypatch)
        distilled, theta, (real, labels) = inputs(case, device)
        changed = distilled.with_learned(distilled.learned().map(lambda t: 0.9 * t))
        changed = replace(changed, labels=distilled.labels.flip(1))
        calls = {
            "recorded": (distilled, theta, (real, labels)),
            "replayed": (changed, 0.9 * theta, (0.9 * real, labels.flip(-1))),
        }
        if len(theta) > 1:
            batch = (real[0], labels[0]) if case.own_batch else (real, labels)
            calls["of another shape"] = (distilled, theta[:1], batch)
        for call, given in calls.items():
            losses, gradient = captured(*given)
            exact_losses, exact = meta_gradient(case.network, *given, objective=case.objective)
            torch.testing.assert_close(losses, exact_losses, rtol=1e-12, atol=1e-8, msg=call)
            assert max(relative_errors(gradient, exact).values()) < 1e-9, call
        assert captured.replay is not None, capsys.readouterr().err

    @needs_cuda
    @pytest.mark.parametrize("case", CASES)
    def test_in_float32_it_is_the_definition_within_rounding(self, case, monkeypatch):
        """A unit of AlexCifarNet lies so near its switch that a GPU's rounding moves it: 0.4 % of
        the gradient."""
        limit = 1e-2 if isinstance(case.network, AlexCifarNet) else 1e-4
        # as `ddcore run --device cuda` has it
        monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
        _, exact = meta_gradient(
            case.network, *inputs(case), objective=case.objective, estimator="autograd"
        )
        captured = CapturedMetaGradient(case.network, case.objective)
        given = inputs(case, "cuda", torch.float32)
        captured(*given)  # recorded, then replayed
        _, found = captured(*given)
        assert captured.replay is not None
        assert max(relative_errors(found, exact).values()) < limit

    @needs_cuda
    def test_what_cannot_be_captured_runs_without_a_graph(self, capsys):
        def waits_for_the_device(logits, labels):
            return cross_entropy(logits, labels) * (1.0 if logits.sum().item() else 0.0)

        network = STEPS_AND_EPOCHS.network
        captured = CapturedMetaGradient(network, waits_for_the_device)
        given = inputs(STEPS_AND_EPOCHS, "cuda")
        exact_losses, exact = meta_gradient(network, *given)
        for _ in range(2):
            losses, gradient = captured(*given)
            assert torch.allclose(losses, exact_losses)
            assert torch.allclose(gradient.images, exact.images)
        assert capsys.readouterr().err.count("without a CUDA graph") == 1
        assert torch.cuda.current_stream() == torch.cuda.default_stream()
