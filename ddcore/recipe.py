"""How the outer loop runs: our settings, and those of the paper's code."""

from dataclasses import dataclass, fields

from ddcore.support.ranges import (
    Count,
    CountOrZero,
    Norm,
    Rate,
    RateOrZero,
    Share,
    Small,
    check_value,
)

WARM_UP = 20  # outer steps


@dataclass(frozen=True)
class Recipe:
    """How the outer loop runs. The defaults differ from the settings of the paper's code,
    `Recipe.faithful()`, in this:

    - images start as normal noise of standard deviation `noise` instead of 1;
    - every network has a real batch of its own, of `batch` images drawn independently, instead of
      one common batch of 1,024 images;
    - the mean meta-gradient is clipped so that its image part has a norm of `clip` at most (the
      learning rates by the same factor, soft labels not at all);
    - Adam's steps are `image_rate`, `raw_rate` and `label_rate` instead of 0.01 for all; they rise
      along a line for 20 outer steps and then fall to zero along another, instead of being halved
      every tenth of the run;
    - the images that were best on the validation split are returned, instead of the last ones (with
      `average`, a running mean of images and learning rates is compared too); a loss that explodes
      or is not finite is answered by going back to them with half the step size;
    - several networks per outer step for random inits, and far fewer outer steps (the paper: about
      23,600 on MNIST).

    In both, batches are drawn with replacement (the paper's code goes through shuffled epochs) and
    5,000 training images (of a small set a tenth) are held out for validation.

    Raises:
        InputError: for a number outside its range, which is the commands' too.
    """

    iterations: Count = 500  # outer steps
    samples: Small = 4  # J, networks per outer step
    batch: Count = 256  # real images per network
    image_rate: RateOrZero = 0.03  # Adam's step size, per pixel in normalised space
    raw_rate: RateOrZero = 0.01  # Adam's step size of the raw learning rates
    label_rate: RateOrZero = 0.03  # Adam's step size of soft labels
    first_lr: Rate = 0.02  # where every learning rate starts
    noise: Rate = 0.2
    clip: Norm = 0.1  # 0: never
    checks: CountOrZero = 25  # looks at the validation split; 0: none, the last images are taken
    average: Share = 0.0  # weight of the past in the running mean; 0: none is kept
    common_batch: bool = False
    halving: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            check_value(field.name, getattr(self, field.name), field.type)

    @staticmethod
    def faithful(iterations: int = 23_600, first_lr: float = 0.02) -> "Recipe":
        """The settings of the paper's code (first_lr: 0.001 on CIFAR-10)."""
        return Recipe(
            iterations=iterations,
            samples=1,
            batch=1024,
            image_rate=0.01,
            raw_rate=0.01,
            label_rate=0.01,
            first_lr=first_lr,
            noise=1.0,
            clip=0.0,
            checks=0,
            common_batch=True,
            halving=True,
        )

    def schedule(self, k: int) -> float:
        """The factor on Adam's step sizes at outer step k (from 0)."""
        if self.halving:
            return 0.5 ** (10 * k // self.iterations)
        return min(1.0, (k + 1) / WARM_UP) * (1 - k / self.iterations)
