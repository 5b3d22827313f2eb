# %% [markdown]
# # Train on a folder
#
# At the end of this page you will have trained a MUNIT on a folder of images, watched it learn, stopped it, resumed
# it, and translated with it. The training lasts less than half a minute on a CPU, so that the page stays quick to run.
# That is enough to see learning begin, and not enough for good pictures. The last section says what to expect from
# longer trainings.

# %%
import csv
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image
from torch import Tensor

import fastmunit
from fastmunit import data
from fastmunit.errors import ConfigError
from fastmunit.runs import EvaluationRecord, Status

temporary = tempfile.TemporaryDirectory()  # give a folder of your own to keep the run
folder = Path(temporary.name)

# %% [markdown]
# ## The folder
#
# A data set is a folder with four others. `trainA` and `trainB` hold the training images of the two domains. They are
# not pairs, and their numbers may differ. `testA` and `testB` hold images that are kept apart, to look at and to
# measure with. Names and formats of the files do not matter, and subfolders are searched.
#
# The package has such a data set. For your own, put images into these four folders and let `images` be their parent.

# %%
images = data.unpack_demo(folder / "fruit_images")
for name in ("trainA", "trainB", "testA", "testB"):
    print(f"{name}  {len(data.list_images(images / name)):4} images")

train_a, train_b = (data.list_images(images / name) for name in ("trainA", "trainB"))
fastmunit.contact_sheet([train_a[::120], train_b[::120]], names=["trainA", "trainB"], side=80)

# %% [markdown]
# ## The configuration
#
# A configuration is a YAML file with the keys of the public MUNIT trainer and some more. Several come with the package
# (`fastmunit configs` lists them), and `Config.load` takes changes of single keys, as `fastmunit train --set` does.
# `demo` is sized for 64 × 64 pixels and minutes on a CPU. For images of 256 × 256 pixels and a GPU, start from
# `edges2shoes`.

# %%
config = fastmunit.Config.load(
    "demo",
    [
        f"data_root={images}",
        "image_display_iter=5",  # iterations between sample pictures
        "log_iter=1",  # iterations between logged losses
        "eval_iter=20",  # iterations between evaluations
        "eval_metrics=reconstruction,edge-agreement",  # measures that need no weights of other networks
        "eval_inputs=10",
        "eval_samples=2",
    ],
)
print(f"system {config.system}, {config.new_size} pixels, batches of {config.batch_size}, learning rate {config.lr}")
print(f"style codes of {config.gen.style_dim} numbers")

# %% [markdown]
# A mistake in a key, a value, or the data is an error before the training starts. It names what is wrong:

# %%
try:
    fastmunit.Config.load("demo", ["batchsize=8"])
except ConfigError as error:
    print(error)

# %% [markdown]
# ## Train
#
# `train` needs the configuration and a folder to write into. It ends after `max_iter` iterations, at the time limit,
# or with Ctrl-C, each time with a checkpoint. To follow it, we give it a *callback*: an object with methods that the
# training calls. This one translates the same three drawings from time to time, with the same style, and prints the
# evaluations. You rarely need one, because the report is written anyway, and so are TensorBoard logs if the
# package `tensorboard` is installed.


# %%
class Watch(fastmunit.Callback):
    """Translate some images every few iterations, and print the evaluations."""

    def __init__(self, paths: list[Path], every: int) -> None:
        self.paths, self.every = paths, every
        self.seen: dict[int, list[Tensor]] = {}

    def iteration(self, status: Status, trainer: fastmunit.MUNIT) -> None:
        """Translate the images with one style."""
        if status.iterations % self.every == 0 or status.iterations == 1:
            self.seen[status.iterations] = [image[0] for image in fastmunit.translate(trainer, self.paths, styles=1)]

    def evaluated(self, status: Status, evaluation: EvaluationRecord, best: bool) -> None:
        """Print the scores of the test images."""
        print(f"iteration {evaluation.iteration:3}: {evaluation}")


drawings = data.list_images(images / "testA")
watch = Watch([drawings[12], drawings[63], drawings[72]], every=5)
run = folder / "run"
result = fastmunit.train(config, run, callbacks=[watch], time_limit=15)
print(f"{result.iterations} iterations, ended by: {result.ended}")

# %% [markdown]
# Every column is a moment of the training, and every row a drawing:

# %%


def film(seen: dict[int, list[Tensor]], count: int = 8) -> Image.Image:
    """Show up to `count` evenly spaced moments."""
    moments = sorted(seen)
    chosen = sorted({moments[k * (len(moments) - 1) // (count - 1)] for k in range(count)})
    rows = [[path, *(seen[moment][k] for moment in chosen)] for k, path in enumerate(watch.paths)]
    return fastmunit.contact_sheet(rows, ["drawing", *(f"{moment:,}" for moment in chosen)], side=72)


film(watch.seen)

# %% [markdown]
# The networks start from random numbers, so the first column is noise. What all photos share is learned first: a white
# background and a dark shape in the middle. The outlines of the drawings and colors of fruit follow after hundreds of
# iterations, and details come last. A faster machine gets further in the same time.
#
# ## The losses
#
# `logs/losses.csv` has the losses, the same that `report.html` and TensorBoard draw.

# %%


def losses(name: str) -> tuple[list[int], list[float]]:
    """Return the iterations and the values of a loss."""
    with (run / "logs" / "losses.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [int(row["iteration"]) for row in rows], [float(row[name]) for row in rows]


def draw_losses() -> None:
    """Draw four losses, and save the picture."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3), sharex=True)
    left.plot(*losses("loss_gen_recon_x_b"), label="image reconstruction")
    left.plot(*losses("loss_gen_recon_c_a"), label="content code reconstruction")
    right.plot(*losses("loss_gen_adv_b"), label="adversarial, generator")
    right.plot(*losses("loss_dis_b"), label="adversarial, discriminator")
    for axes in (left, right):
        axes.set_xlabel("iteration")
        axes.set_ylim(0, None)
        axes.legend()
    figure.tight_layout()
    figure.savefig(folder / "losses.png")


draw_losses()

# %% [markdown]
# The two kinds of losses must be read differently.
#
# - **Reconstruction** (left) measures a distance, so lower is better. An image that is encoded and decoded in its own
#   domain must come out as it was. If this does not fall, something is wrong with the data or the learning rate.
# - **Adversarial** losses (right) are the two sides of a game: discriminators learn to tell photos from outputs, and
#   generators learn to pass. When one side gets better, the loss of the other rises, so neither says how good the
#   pictures are. What to look for is balance. A discriminator loss that stays at 0 means that the generators get no
#   useful signal any more. With little data, the discriminator may have learned the photos by heart. The authors of
#   [augmentation](../how_to/small_data.md) report that it helps in long trainings; in ten minutes on 100 photos,
#   [it did not](../how_to/small_data.md#measured-on-100-photos).
#
# ## The run folder

# %%
for path in sorted(run.rglob("*")):
    if path.is_file() and not path.name.startswith((".", "events")):
        print(f"{path.relative_to(run)!s:<38} {path.stat().st_size / 1000:9,.1f} kB")

# %% [markdown]
# `report.html` is the page to open in a browser while a training runs: progress, sample pictures in both directions,
# losses, evaluations, and the commands for the next step. `checkpoints/gen_*.pt` are the generators, and can be loaded
# by the public trainer as well. `state_*.pt` has everything that an exact resume needs besides the weights.
#
# The evaluations that the callback has printed are one line each in `logs/evaluations.jsonl`, and curves in the report.
# Reconstruction and cycle are differences, so lower is better. Edge agreement is the correlation between the edges of
# an input and those of its outputs, which says how much of the drawing a translation has kept. The brackets are 95 %
# intervals; [the tutorial about evaluation](evaluate.py) explains them.
#
# ## Resume
#
# A run that has ended or was killed continues from its last checkpoint, with the same numbers that an uninterrupted
# run would have had: weights, optimizers, random states and the order of the images are all restored.

# %%
before = result.iterations
result = fastmunit.train(config, run, resume=True, callbacks=[watch], time_limit=8)
print(f"{before} + {result.iterations - before} = {result.iterations} iterations")

draw_losses()
film(watch.seen)

# %% [markdown]
# ## Translate with the run
#
# The run folder can be used wherever the name of a model can. Here it is next to `fruit`, the model that comes with the
# package. It has the same configuration with a smaller style network and averaged weights (`ema_decay=0.999`), and
# was trained for 4,565 iterations:

# %%
drawing = drawings[72]
mine = fastmunit.translate(run, drawing, styles=6)
fruit = fastmunit.translate("fruit", drawing, styles=6)

fastmunit.contact_sheet(
    [[drawing, *mine], [drawing, *fruit]], names=[f"{result.iterations} iterations", "fruit"], side=80
)

# %% [markdown]
# ## Your own training
#
# - **Time.** The configuration `demo` gives recognizable fruit after five minutes on two CPU cores, and gets better for
#   hours. Trainings of the paper, at 256 × 256 pixels, take hundreds of thousands of iterations, which is what GPUs are
#   for. [The benchmarks](../project/benchmarks.md) say how long an iteration takes.
# - **Images.** A thousand per domain is a good start; with a few hundred, see [small data](../how_to/small_data.md).
#   More important than their number is that both domains show the same kinds of things: what only one of them has
#   must be invented.
# - **Memory.** `fastmunit train --plan` says what a configuration needs, before you have any images:
#   [memory](../how_to/memory.md).
# - **Other images**: gray, 16 bits, many channels, slides and volumes: [data](../how_to/data.md).
#
# On the command line, this page is
#
# ```bash
# python -c 'from fastmunit.data import unpack_demo; unpack_demo("fruit_images")'
# fastmunit train --config demo --data fruit_images --output runs/fruit
# fastmunit train --output runs/fruit --resume
# fastmunit translate --checkpoint runs/fruit --input drawing.png --output out --styles 6
# ```
#
# Next: [what the style codes are good for](styles.py), and [whether a model is better than another](evaluate.py).
