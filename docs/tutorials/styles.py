# %% [markdown]
# # Styles: extract, choose, blend, steer
#
# At the end of this page you will have the styles of 816 photos in one small file, a bank of eight styles that stand
# for all of them, a search for photos with a similar look, blends of four looks, sliders that change one property at a
# time, and random styles that look like real fruit. None of this trains anything. It takes a few seconds on a CPU.
#
# A style code is a short list of numbers, here eight, that says what an image looks like, apart from what it shows.
# [The first tutorial](first_translation.py) used codes one by one. The codes of many images are a cloud of points, and
# the shape of this cloud says which looks exist, which are common, and how they are related.
#
# This page needs scikit-learn and SciPy: `pip install "fastmunit[styles]"`.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import fastmunit
from fastmunit import data, styles

temporary = tempfile.TemporaryDirectory()  # give a folder of your own to keep what this page writes
folder = Path(temporary.name)

images = data.unpack_demo(folder / "fruit_images")
drawings, photos = data.list_images(images / "testA"), data.list_images(images / "testB")
shapes = [drawings[12], drawings[72], drawings[87]]
translator = fastmunit.load_translator("fruit")

# %% [markdown]
# ## Extract
#
# `extract` takes files and folders, and returns one code per image, with its name and the model that it belongs to. It
# also says which file each code came from, and which files could not be read, so that one damaged image among
# thousands does not stop the work.

# %%
found = styles.extract(translator, images / "trainB")
codes = found.styles.codes
print(tuple(codes.shape), "codes;", len(found.failures), "files could not be read")
print("mean              ", " ".join(f"{value:6.2f}" for value in codes.mean(0).flatten().tolist()))
print("standard deviation", " ".join(f"{value:6.2f}" for value in codes.std(0).flatten().tolist()))

# %% [markdown]
# ## A bank of styles
#
# 816 styles are too many to choose from. `make_bank` groups the codes with k-means and returns the center of each
# group, the largest group first. A center is a mean and so belongs to no image. What stands for it in a picture is its
# *medoid*, the image whose code is next to it.

# %%
bank = styles.make_bank(codes, count=8)
outputs = fastmunit.translate(translator, shapes, styles=bank.codes)

medoids = [found.paths[index] for index in bank.medoids]
rows = [[shape, *row] for shape, row in zip(shapes, outputs, strict=True)]
fastmunit.contact_sheet([[None, *medoids], *rows], ["", *(f"n = {size}" for size in bank.sizes)], side=76)

# %% [markdown]
# The numbers above the columns are the sizes of the groups. A bank is a good choice of buttons for users of a model,
# and it is a summary: it shows at a glance which looks the model can tell apart.
#
# Saved, the bank works wherever styles are expected, in Python and on the command line
# (`fastmunit translate --styles-file`, `serve`, `page`, `evaluate`).

# %%
names = [path.stem for path in medoids]
styles.write_styles(folder / "bank.safetensors", bank.codes, names, found.styles.model)
saved = styles.read_styles(folder / "bank.safetensors")
print(len(saved.names), "styles of", saved.model)

# %% [markdown]
# ## The nearest styles
#
# Codes that are close to each other are similar looks. So the distance between codes is a search engine for looks: give
# it a photo that the model has never seen, and it finds those with the same colors and the same light.

# %%
queries = [photos[k] for k in (8, 63, 2, 37)]
rows = []
for query in queries:
    code = styles.extract(translator, query).styles.codes
    neighbors = styles.nearest(codes, code, count=6)
    rows.append([query, *(found.paths[neighbor.index] for neighbor in neighbors)])

fastmunit.contact_sheet(rows, ["query", "nearest", *(f"{k}." for k in range(2, 7))], side=88)

# %% [markdown]
# Not everything that we see is in the code. Shape is not, on purpose: a round fruit may be next to a long one. Fine
# texture is not either, because eight numbers have no room for it. What the model ignores here, it will also ignore
# when it translates with a reference. Searching for neighbors is therefore a fast way to find out what a style
# *means* to your model.
#
# ## Blend
#
# A weighted mean of codes is a code. Put a style in each corner of a square, interpolate along the top and along the
# bottom, and then between the two:

# %%
corners = torch.cat([styles.extract(translator, photos[k]).styles.codes for k in (8, 6, 63, 37)])
top = styles.interpolate(corners[:1], corners[1:2], count=5)
bottom = styles.interpolate(corners[2:3], corners[3:], count=5)
blends = torch.lerp(top, bottom, torch.linspace(0, 1, 5).view(5, 1, 1, 1, 1))  # (rows, columns, style_dim, 1, 1)
outputs = fastmunit.translate(translator, drawings[72], styles=blends.flatten(0, 1))

left, right = [photos[8], None, None, None, photos[63]], [photos[6], None, None, None, photos[37]]
rows = [[left[k], *outputs[5 * k : 5 * k + 5], right[k]] for k in range(5)]
fastmunit.contact_sheet(rows, ["reference", *[""] * 5, "reference"], side=88)

# %% [markdown]
# The mean of *all* codes of a folder is the look of that folder: of one scanner, one stain, one season. Translating
# into it removes differences that have nothing to do with what you study.
#
# ## Directions
#
# In what way do looks differ? `principal_directions` finds the directions in which the cloud of codes is longest.
# `steps` walks along one of them, from three standard deviations on one side of the mean to three on the other.

# %%
directions = styles.principal_directions(codes)
print("Share of the variance:", " ".join(f"{share:.0%}" for share in directions.shares))

rows = [fastmunit.translate(translator, drawings[72], styles=directions.steps(k, count=7)) for k in range(4)]
labels = [f"{k + 1}: {directions.shares[k]:.0%}" for k in range(4)]
fastmunit.contact_sheet(rows, ["-3 sd", "-2", "-1", "mean", "+1", "+2", "+3 sd"], labels, side=80)

# %% [markdown]
# Each direction is a slider. Nobody has told the model about brightness or hue. The first directions found them,
# because photos differ in them most. If almost all of the variance is in fewer directions than there are
# numbers, `style_dim` is larger than the data needs; if many directions have similar shares, it may be too small.
#
# ## Random styles that look like photos
#
# Random styles come from the normal distribution N(0, I), which has a standard deviation of 1 in every direction. Here
# is what photos have:

# %%
figure, axes = plt.subplots(figsize=(6, 3))
axes.bar(range(1, 9), directions.deviations, label="codes of photos")
axes.axhline(1, color="black", linestyle="--", label="random styles, N(0, I)")
axes.set_xlabel("direction")
axes.set_ylabel("standard deviation")
axes.legend()
figure.tight_layout()
figure.savefig(folder / "deviations.png")

# %% [markdown]
# In the first direction, photos vary as much as random styles. In the last ones, they hardly vary at all, so a random
# style is far from every photo there, and its colors are odd. The losses of MUNIT never compare the codes of photos
# with N(0, I), so this is usual. The remedy is to draw from a normal distribution that has the mean and the covariance
# of the real codes:

# %%
check = styles.check_distribution(codes)
print(f"distance of the codes from N(0, I): {check.standard.distance:.2f}, by chance {check.standard.expected:.4f}")

normal = fastmunit.translate(translator, drawings[72], styles=8, seed=3)
translator.style_distribution = styles.FittedNormal(codes)
fitted = fastmunit.translate(translator, drawings[72], styles=8, seed=3)

fastmunit.contact_sheet([normal, fitted], names=["from N(0, I)", "fitted"], side=76)

# %% [markdown]
# The gradients from one bright color to another are gone, and what remains are looks of fruit. The price is some of the
# variety. On the command line, it is `--style-distribution photos.safetensors`, with a file that
# `fastmunit styles extract` has written.
#
# ## Where to go from here
#
# - [How to work with styles](../how_to/styles.md): the commands, the files, and inversion, which finds the style that
#   reconstructs a photo best
# - [Augment a training set](../how_to/augment.md): translate the images of another task into many styles
# - [Evaluate a model](evaluate.py): whether its outputs are as diverse as real images
