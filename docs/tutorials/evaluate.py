# %% [markdown]
# # Evaluate a model, and read the intervals
#
# At the end of this page you will have measured two models on the same images, know how far the figures can be trusted,
# and be able to say whether the difference between the models is real. One is `fruit`, which comes with the package.
# The other one we train for eight seconds, so that we know in advance which is better.
#
# There is no single figure for "good". A translation should look like an image of the other domain, keep the content
# of its input, and be one of many different ones. A model can do well in one of these and fail in another: the one
# that returns its input unchanged keeps the content perfectly. So measure several things, and look at pictures.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt

import fastmunit
from fastmunit import data
from fastmunit.metrics.confidence import Estimate, mean_estimate
from fastmunit.metrics.evaluate import evaluate
from fastmunit.metrics.inspection import inspect
from fastmunit.metrics.load import load_measures
from fastmunit.metrics.results import Evaluation

temporary = tempfile.TemporaryDirectory()  # give a folder of your own to keep the run
folder = Path(temporary.name)
images = data.unpack_demo(folder / "fruit_images")

# %% [markdown]
# ## Two models

# %%
config = fastmunit.Config.load("demo", [f"data_root={images}"])
fastmunit.train(config, folder / "beginner", time_limit=8)
models = {"fruit": "fruit", "beginner": folder / "beginner"}

drawings = data.list_images(images / "testA")[2:80:13]
rows = [[row[0] for row in fastmunit.translate(model, drawings, styles=1)] for model in models.values()]
fastmunit.contact_sheet([drawings, *rows], names=["drawing", *models], side=80)

# %% [markdown]
# ## Measure
#
# An evaluation translates test images with random styles and measures the outputs. It needs the translators of both
# directions, because some measures translate back. `config` names the test images.
#
# The three measures here need nothing but the model and the images:
#
# - **edge agreement**: the correlation between the edges of an input and of its outputs. It is about content.
# - **content code distance**: how much the content code of an output differs from that of its input, as the model
#   itself sees it.
# - **reconstruction** and **cycle** L1: how much an image changes when it is encoded and decoded, and when it is
#   translated there and back.


# %%
def measured(model: str | Path) -> Evaluation:
    """Measure the translations of 40 drawings, two of each."""
    forward, backward = (fastmunit.load_translator(model, direction=direction) for direction in ("a2b", "b2a"))
    measures = load_measures(["edge-agreement", "content-code", "reconstruction"])
    return evaluate(forward, config, measures, backward=backward, inputs=40, samples=2)


results = {name: measured(model) for name, model in models.items()}
for name, evaluation in results.items():
    print(f"{name}:")
    for score in evaluation.scores:
        print(f"  {score.name:<42} {score.estimate!s:<24} {score.better and score.better + ' is better'}")

# %% [markdown]
# ## What an interval says
#
# The figures in brackets are a 95 % interval. We measured 40 drawings, and what we want to know is the mean over *all*
# drawings of this kind. With 40 others, the value would have been a bit different. The interval says by how much: if
# many people each measured 40 drawings and computed their own interval, about 95 of 100 would contain the mean over all
# drawings.
#
# More drawings make it narrower. Here is the same measurement, with the intervals that we would have reported after
# the first 10, 20, 30 and 40 drawings:

# %%
agreements = results["fruit"].scores[0].per_input
counts = (10, 20, 30, 40)
estimates = [mean_estimate(agreements[:count]) for count in counts]


def draw(axes: plt.Axes, places: list[float], estimates: list[Estimate], **style) -> None:
    """Draw estimates as points with their intervals."""
    values = [estimate.value for estimate in estimates]
    below = [estimate.value - estimate.low for estimate in estimates]
    above = [estimate.high - estimate.value for estimate in estimates]
    axes.errorbar(places, values, [below, above], fmt="o", capsize=4, **style)


figure, axes = plt.subplots(figsize=(6, 3))
axes.plot([k + 1 for k in range(40)], agreements, ".", color="0.6", label="one drawing")
draw(axes, list(counts), estimates, label="mean and 95 % interval")
axes.set_xlabel("drawings")
axes.set_ylabel("edge agreement")
axes.legend(loc="lower left")
figure.tight_layout()
figure.savefig(folder / "counts.png")

widths = [estimate.high - estimate.low for estimate in estimates]
print("Width:", ", ".join(f"{width:.3f} with {count}" for width, count in zip(widths, counts, strict=True)))

# %% [markdown]
# As a rule, half the width takes four times as many images. Note what an interval does *not* say:
#
# - It is not the range of single drawings, the gray dots, which is much wider.
# - It knows only the variation between inputs. A second training with another seed would give another model, which
#   can differ by more.
# - It cannot know whether your test images are like the images that you will use the model for.
#
# More outputs per drawing (`samples`) hardly help, because outputs of the same drawing are alike. The intervals treat
# the *drawings* as independent, not the outputs. With fewer than ten inputs, there is no interval at all: it would be
# a guess.
#
# ## Which model is better?
#
# If two intervals do not overlap, the difference is real. If they overlap, it may still be real, because comparing
# intervals throws away that both models were measured on the *same* drawings. A drawing that is hard for one is often
# hard for the other. So take the difference for every drawing, and then the interval of the differences:

# %%
for ours, theirs in zip(results["fruit"].scores, results["beginner"].scores, strict=True):
    if not ours.per_input:
        continue
    difference = mean_estimate([a - b for a, b in zip(ours.per_input, theirs.per_input, strict=True)])
    if difference.low <= 0 <= difference.high:
        verdict = "not decided"
    else:
        verdict = "fruit is better" if (difference.value > 0) == (ours.better == "higher") else "beginner is better"
    print(f"{ours.name:<42} {difference!s:<28} {verdict}")

# %% [markdown]
# An interval that does not contain 0 is a difference that chance does not explain. One that contains 0 means "not
# decided with these images", not "equal".
#
# Be careful with many comparisons: of twenty differences between equal models, about one will look real at 95 %.
#
# ## What to compare a value with
#
# Is this edge agreement high? A figure needs something to hold it against. Evaluations therefore measure
# references, such as outputs of *other* drawings, which share the kind of object but not its content:

# %%
score = results["fruit"].scores[0]
print(f"{score.name}: {score.estimate}")
for name, reference in score.references.items():
    print(f"  {name}: {reference}")

# %% [markdown]
# All fruits are round, so even wrong pairs agree to some extent. The distance between the two values is what the model
# keeps of the drawing at hand. Real photos and their drawings would be another reference, if you have pairs.
#
# ## Look at the worst
#
# A mean hides the cases that matter most. `inspect` scores every input by what its translation may have lost or
# invented, and returns the worst first, with maps of where. Red are edges that only the output has, blue those that
# only the drawing has.

# %%
forward, backward = (fastmunit.load_translator("fruit", direction=direction) for direction in ("a2b", "b2a"))
inspection = inspect(forward, config, backward=backward, inputs=40, samples=4)

scale = inspection.scales["edges"]
figure, grid = plt.subplots(3, 5, figsize=(8, 5))
for axes, pictures in zip(grid.T, inspection.pictures, strict=False):
    axes[0].imshow((pictures.images["input"].permute(1, 2, 0) + 1) / 2)
    axes[1].imshow((pictures.images["output"].permute(1, 2, 0) + 1) / 2)
    axes[2].imshow(pictures.maps["edges"], cmap="bwr", vmin=-scale, vmax=scale)
for axes, label in zip(grid[:, 0], ("drawing", "output", "edges"), strict=True):
    axes.set_ylabel(label)
for axes in grid.flat:
    axes.set_xticks([])
    axes.set_yticks([])
figure.tight_layout()
figure.savefig(folder / "worst.png")

# %% [markdown]
# These are drawings with many lines inside. The model keeps the outline, and turns inner lines into vague shades. If
# inner lines carried a diagnosis, this would be the finding of the evaluation, whatever the means say.
# `fastmunit evaluate --inspect` writes all of it as one page.
#
# ## Realism and diversity
#
# None of the three measures says whether outputs look real or how diverse they are. The usual ones compare images in
# the features of a network that was trained on ImageNet:
#
# - **KID** and **FD** (Fréchet distance) compare the features of outputs with those of real images: realism.
# - **LPIPS diversity** is the mean distance between pairs of outputs of one input.
#
# Their weights are not part of the package. Put `alexnet_features.pth` into a folder that the variable
# `FASTMUNIT_WEIGHTS` names, or let torchvision download the weights on the first call; see
# [weights](../how_to/evaluation.md#weights). Then
#
# ```bash
# pip install "fastmunit[eval]"
# python -c 'from fastmunit.data import unpack_demo; unpack_demo("fruit_images")'
# fastmunit evaluate --checkpoint fruit --data fruit_images --output evaluation
# ```
#
# measures them too, compares each with real images, and writes `evaluation.html` with the most and the least diverse
# inputs and with the training images that are nearest to some outputs: a model that has learned photos by heart shows
# there. [An example of such a table](../how_to/evaluation.md#example) explains its values one by one.
#
# Values from different networks cannot be compared. FD in AlexNet features is not the FID of a paper, and LPIPS with
# AlexNet is not LPIPS with VGG. The names of the scores say which network they come from; write it wherever you
# report them.
#
# ## In short
#
# 1. Measure content, realism and diversity, each with its interval and its reference.
# 2. Compare models on the same images, by the interval of their differences.
# 3. For a claim about a *method*, train several times with different seeds.
# 4. Look at the worst images before you trust a mean.
#
# During a training, `eval_iter` does all this from time to time and keeps the best checkpoint:
# [evaluation during a training](../how_to/evaluation.md#during-a-training).
