"""The compiled LeNet against the steps as they stand in PyTorch, in float64."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from test_networks import textbook_lenet

from ddcore.accuracy import predict
from ddcore.distilled import DistilledData
from ddcore.networks import LeNet, ModuleStack, Network, generator
from ddcore.support import kernel
from ddcore.unroll import cross_entropy, forward_step, meta_gradient, real_gradient, reverse_step

# networks, channels, side, classes, images
CASES = [
    pytest.param((1, 1, 28, 10, 10), id="one network"),
    pytest.param((4, 1, 28, 10, 10), id="four"),
    pytest.param((2, 3, 32, 10, 7), id="colour"),
    pytest.param((2, 3, 28, 10, 1), id="one image"),
    pytest.param((3, 1, 32, 3, 21), id="three classes"),
    pytest.param((2, 1, 28, 10, 300), id="more images than a task has"),
]


@pytest.fixture(scope="module", autouse=True)
def built():
    """Where this fails, the tests below would compare PyTorch with itself."""
    network = LeNet()
    theta = network.init("xavier")[None]
    assert network.kernel(theta, torch.zeros(1, 1, 28, 28)) is not None, "no C++ compiler here"


def arguments(
    n: int, channels: int, side: int, classes: int, images: int, dtype=torch.double
) -> tuple[LeNet, list[torch.Tensor]]:
    """The network and theta, v, images, targets and a learning rate."""
    network = LeNet(channels, side, classes)
    rng = generator("kernel", n, channels, side, classes, images)
    theta = torch.stack([network.init("xavier", rng) for _ in range(n)]).to(dtype)
    theta += 0.05 * torch.randn(theta.shape, generator=rng).to(dtype)  # so that biases count
    v = torch.randn(theta.shape, generator=rng).to(dtype)
    x = torch.randn(images, channels, side, side, generator=rng).to(dtype)
    targets = torch.rand(images, classes, generator=rng).to(dtype)
    return network, [theta, v, x, targets, torch.tensor(0.3, dtype=dtype)]


def steps(network: Network, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    theta, v, x, targets, lr = tensors
    return [
        forward_step(network, theta, x, targets, lr),
        *reverse_step(network, theta, v, x, targets, lr),
    ]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


class TestEquality:
    @pytest.mark.parametrize("case", CASES)
    def test_a_step_there_and_back(self, case):
        network, tensors = arguments(*case)
        ours = steps(network, tensors)
        with kernel.allowed(False):
            plain = steps(network, tensors)
        assert max(map(relative, ours, plain)) < 1e-12

    @pytest.mark.parametrize("own", [False, True], ids=["shared images", "own images"])
    @pytest.mark.parametrize("case", CASES)
    def test_the_gradient_on_real_images_and_the_predictions(self, case, own):
        network, (theta, _, x, targets, _) = arguments(*case)
        labels = targets.argmax(-1)
        if own:
            x = torch.stack([x.roll(j, 0) for j in range(len(theta))])
            labels = torch.stack([labels.roll(j) for j in range(len(theta))])
        shared = x[0] if own else x
        ours = real_gradient(network, theta, x, labels, cross_entropy)
        predictions = predict(network, theta, shared)
        with kernel.allowed(False):
            plain = real_gradient(network, theta, x, labels, cross_entropy)
            assert torch.equal(predictions, predict(network, theta, shared))
        assert max(map(relative, ours, plain)) < 1e-12

    def test_where_maxima_tie_the_first_wins_as_in_the_textbook(self):
        """Images of few grey levels: most windows have a tie, and the network has shut ReLUs."""
        network, (theta, v, x, targets, lr) = arguments(1, 1, 28, 10, 10)
        x = x.sign()
        x[:, :, 10:20, :] = 0
        ours = steps(network, [theta, v, x, targets, lr])
        with kernel.allowed(False):
            plain = steps(ModuleStack(textbook_lenet(1, 28).double()), [theta, v, x, targets, lr])
        assert max(map(relative, ours, plain)) < 1e-12

    def test_the_meta_gradient_is_autograd_s(self):
        network, (theta, _, x, targets, _) = arguments(2, 1, 28, 10, 10)
        labels = torch.arange(10)
        lrs = torch.full((3, 2), 0.05, dtype=torch.double)
        distilled = DistilledData(torch.stack([x, -x]), labels.expand(2, -1), lrs)
        batch = x.flip(0), labels
        ours = meta_gradient(network, distilled, theta, batch)
        exact = meta_gradient(network, distilled, theta, batch, estimator="autograd")
        assert relative(ours[0], exact[0]) < 1e-12
        assert relative(ours[1].images, exact[1].images) < 1e-10
        assert relative(ours[1].lrs, exact[1].lrs) < 1e-10

    def test_threads_change_no_bit(self):
        network, tensors = arguments(3, 1, 28, 10, 10, torch.float32)
        theta, x = tensors[0], tensors[2].repeat(40, 1, 1, 1)
        labels = torch.arange(400) % 10
        results = []
        threads = torch.get_num_threads()
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            gradient = real_gradient(network, theta, x, labels, cross_entropy)
            results.append([*steps(network, tensors), *gradient])
        torch.set_num_threads(threads)
        for other in results[1:]:
            assert all(map(torch.equal, results[0], other))

    def test_a_network_that_diverged_stays_so_and_harms_no_other(self):
        network, tensors = arguments(2, 1, 28, 10, 10)
        healthy = steps(network, tensors)[0]
        tensors[0][0, 200] = torch.nan
        sick = steps(network, tensors)[0]
        assert sick[0].isnan().any()
        assert torch.equal(sick[1], healthy[1])


class TestWhereItServes:
    def test_not_where_the_call_is_differentiated_vectorised_or_traced(self):
        network, (theta, _, x, targets, lr) = arguments(1, 1, 28, 10, 4)

        def served(theta: torch.Tensor) -> torch.Tensor:
            assert network.kernel(theta, x, targets, lr) is None
            return forward_step(network, theta, x, targets, lr).sum()

        assert network.kernel(theta, x, targets, lr) is not None
        served(theta.clone().requires_grad_()).backward()
        torch.func.grad(served)(theta)
        torch.func.jvp(served, (theta,), (theta,))

        def vectorised(theta: torch.Tensor) -> torch.Tensor:
            assert network.kernel(theta[None], x) is None
            return theta

        torch.vmap(vectorised)(theta)

    def test_not_for_numbers_of_other_types_or_another_network(self):
        network, (theta, _, x, targets, lr) = arguments(1, 1, 28, 10, 4)
        assert network.kernel(theta.half(), x.half()) is None
        assert network.kernel(theta, x.float()) is None
        assert network.kernel(theta, x.long()) is None
        assert network.kernel(theta, x[None].expand(2, -1, -1, -1, -1)) is None
        assert network.kernel(theta, x, targets, 0.3) is not None
        assert network.kernel(theta[:, 1:], x) is None
        assert network.kernel(theta.to("meta"), x.to("meta")) is None

        class Other(LeNet):
            def forward(self, weights, images):
                return -super().forward(weights, images)

        assert Other().kernel(theta, x) is None

    def test_labels_of_their_own_for_shared_images_are_pytorch_s(self):
        network, (theta, _, x, _, _) = arguments(2, 1, 28, 10, 4)
        labels = torch.arange(8).view(2, 4)
        losses = real_gradient(network, theta, x, labels, cross_entropy)[1]
        expected = cross_entropy(network(theta, x), labels)
        assert torch.allclose(losses, expected, rtol=1e-12)


class TestBuilding:
    @pytest.fixture
    def anew(self, monkeypatch, tmp_path):
        """No library is loaded or kept."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setattr(kernel, "_libraries", [])
        kernel._library.cache_clear()
        yield tmp_path / "ddcore/kernels"
        kernel._library.cache_clear()

    @pytest.mark.parametrize(
        ("compiler", "reason"),
        [
            pytest.param("/nowhere/c++", "No such file", id="not there"),
            pytest.param("false", "failed: no message", id="fails"),
        ],
    )
    def test_without_a_compiler_a_line_says_so_once(
        self, anew, monkeypatch, capfd, compiler, reason
    ):
        monkeypatch.setenv("CXX", compiler)
        network, tensors = arguments(1, 1, 28, 10, 4)
        ours = steps(network, tensors)
        lines = capfd.readouterr().err.splitlines()
        assert len(lines) == 1
        assert "running LeNet in PyTorch" in lines[0] and reason in lines[0]
        assert not kernel.is_built()
        with kernel.allowed(False):
            assert all(map(torch.equal, ours, steps(network, tensors)))

    def test_a_process_killed_while_it_builds_leaves_nothing_that_counts(self, anew):
        code = "from ddcore.support import kernel; kernel.build('double', 1, 10)"
        killed = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        deadline = time.monotonic() + 60
        while not list(anew.glob(".*.part")) and killed.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        assert not list(anew.glob("*.so"))
        file = kernel.build("double", 1, 10)
        assert [file] == list(anew.glob("*.so"))
        assert ctypes.CDLL(str(file)).reverse_step
        before = file.stat().st_mtime_ns
        assert kernel.build("double", 1, 10) == file and file.stat().st_mtime_ns == before

    def test_another_source_or_another_kind_is_another_file(self, anew, monkeypatch):
        monkeypatch.setattr(kernel, "FLAGS", [*kernel.FLAGS, "-O0"])  # a fraction of the time
        files = {kernel.build("float", 1, 2), kernel.build("float", 1, 3)}
        monkeypatch.setattr(kernel, "FLAGS", [*kernel.FLAGS, "-DANOTHER"])
        assert len(files | {kernel.build("float", 1, 2)}) == 3
