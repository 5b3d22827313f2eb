# %% [markdown]
# # Your first translation
#
# At the end of this page you will have turned drawings into photos of fruit: in random looks, in the look of a photo
# that you choose, and in steps between two looks. The pictures will be files on your disk. It takes a few seconds on a
# CPU and downloads nothing, because images and a small trained model come with the package.
#
# The model is a MUNIT. It describes an image by two codes: a **content code**, which says what is there and where, and
# a **style code**, a few numbers that say what it looks like. To translate a drawing, it takes the content of the
# drawing and a style of photos. One drawing therefore has many translations, one per style. No pairs of drawings and
# photos were needed to learn this.

# %%
import tempfile
from pathlib import Path

import fastmunit
from fastmunit import data, styles

temporary = tempfile.TemporaryDirectory()  # give a folder of your own to keep what this page writes
folder = Path(temporary.name)

# %% [markdown]
# ## Look at the images
#
# `unpack_demo` writes the images that come with the package into a folder. A training set for translation has two
# *domains*: here, drawings are domain A and photos are domain B. `testA` and `testB` hold images that the model has
# not been trained on. `contact_sheet` lays out images in rows, and is all we need to look at them.

# %%
images = data.unpack_demo(folder / "fruit_images")
drawings = data.list_images(images / "testA")
photos = data.list_images(images / "testB")
print(len(drawings), "drawings and", len(photos), "photos to try the model on")

fastmunit.contact_sheet([drawings[2:80:13], photos[4:80:13]], names=["A, drawings", "B, photos"], side=96)

# %% [markdown]
# ## Load the model
#
# `load_translator` takes the folder of a training run, a checkpoint file, or a name. `fruit` is the name of a model
# that comes with the package. A translator goes in one direction: from A to B, unless you ask for `direction="b2a"`.

# %%
translator = fastmunit.load_translator("fruit")
print(translator.about.description)
print(f"{translator.about.iterations:,} iterations, {translator.style_dim} numbers per style code")

# %% [markdown]
# ## One drawing, six styles
#
# `translate` takes an image in whatever form you have it: a path, a PIL image, a NumPy array, or a tensor. Given a
# number of styles, it draws that many style codes at random.

# %%
drawing = drawings[72]
outputs = fastmunit.translate(translator, drawing, styles=6)
print(tuple(outputs.shape), outputs.dtype, f"values from {outputs.min():.2f} to {outputs.max():.2f}")

fastmunit.contact_sheet([[drawing, *outputs]], columns=["drawing", *(f"style {k}" for k in range(6))], side=96)

# %% [markdown]
# The result is a tensor with one image per style, in RGB, with values in [-1, 1]. Every output keeps the outline and
# even the highlight where the drawing has one; color and shading come from the style. Some fruits have colors that
# you will not find at a market. Random styles come from a normal distribution, and nothing forces all of it to
# correspond to real fruits. [The tutorial about styles](styles.py) shows how to avoid that.
#
# Styles depend on `seed` alone, so the same call gives the same images again, and another seed gives new ones:

# %%
again = fastmunit.translate(translator, drawing, styles=6)
others = fastmunit.translate(translator, drawing, styles=6, seed=1)
print("Same seed, same images:", bool((again == outputs).all()))

fastmunit.contact_sheet([outputs, others], names=["seed=0", "seed=1"], side=96)

# %% [markdown]
# ## Content and style are separate
#
# With a list of images, every image is translated into the *same* styles. This is the test of the idea: read the
# picture along a row and the shape stays while the look changes; read it down a column and the look stays.

# %%
chosen = drawings[12:97:28]
outputs = fastmunit.translate(translator, chosen, styles=6)
print(tuple(outputs.shape), "= drawings, styles, channels, height, width")

fastmunit.contact_sheet([[image, *row] for image, row in zip(chosen, outputs, strict=True)], side=96)

# %% [markdown]
# ## The style of a photo
#
# Random styles are good for variety. When you know what you want, give a *reference*: a photo, whose style code the
# model computes itself. Pass references as `styles`, in the same forms as images.

# %%
references = [photos[k] for k in (8, 2, 6, 63, 37)]
outputs = fastmunit.translate(translator, chosen, styles=references)

rows = [[image, *row] for image, row in zip(chosen, outputs, strict=True)]
sheet = fastmunit.contact_sheet([[None, *references], *rows], side=96)
sheet

# %% [markdown]
# The top row has the references. Each column takes over the color and the way the light falls, and ignores the shape
# of the reference. Details such as speckles or a brown spot get lost, because this model has only eight numbers to
# describe a look, and was trained at 64 × 64 pixels for 4,565 iterations only.
#
# Translating a reference again computes its style code again. To keep a code, *extract* it: it is a small tensor that
# you can save, average, or change.

# %%
found = styles.extract(translator, references).styles
print(tuple(found.codes.shape))
for name, code in zip(found.names, found.codes, strict=True):
    print(f"{name:<32}", " ".join(f"{number:6.2f}" for number in code.flatten().tolist()))

# %% [markdown]
# ## From one style to another
#
# Style codes are points in a space, and the decoder is smooth, so the points between two codes are looks between two
# looks. `interpolate` returns evenly spaced codes on the line from one to the other, and `translate` takes codes
# wherever it takes references:

# %%
codes = styles.interpolate(found.codes[:1], found.codes[4:], count=7)
steps = fastmunit.translate(translator, drawing, styles=codes)

fastmunit.contact_sheet([[references[0], *steps, references[4]]], ["from", *[""] * 7, "to"], side=80)

# %% [markdown]
# Mixing the pixels of the two end images would give a double exposure. Here, the fruit is as sharp in the middle as at
# the ends, because its shape comes from the drawing at every step and only the eight numbers change.
#
# ## The way back
#
# The same model also translates photos into drawings, and it had to learn both. During the training, the content code
# of an output, computed by the encoder of its new domain, had to equal that of the input. This is what keeps the
# content in place, and it needs an encoder for each domain.

# %%
back = fastmunit.translate("fruit", photos[3:80:15], styles=1, direction="b2a")

fastmunit.contact_sheet([photos[3:80:15], [row[0] for row in back]], names=["photo", "drawing"], side=96)

# %% [markdown]
# ## Save
#
# `save_image` writes a tensor in [-1, 1] with the format of the file name. A contact sheet is a PIL image, which saves
# itself. Style codes go into a safetensors file that remembers which model they belong to: another model refuses
# them, since the same eight numbers would mean something else there.

# %%
for number, step in enumerate(steps):
    data.save_image(step, folder / f"step{number}.png")
sheet.save(folder / "references.png")
styles.write_styles(folder / "references.safetensors", found.codes, found.names, found.model)

outputs = fastmunit.translate(translator, drawing, styles=folder / "references.safetensors")
print(len(outputs), "translations with the saved styles")
print("Written:", ", ".join(sorted(path.name for path in folder.iterdir() if path.is_file())))

# %% [markdown]
# ## Your own drawings
#
# `fastmunit.translate("fruit", "my_drawing.png")` works on any image file, but the model knows black outlines, one or
# two pixels wide, on white, with one fruit that fills the picture. Draw in a square and reduce it to 64 × 64 pixels
# for the best result. For other subjects, [train a model on a folder of your images](train_on_a_folder.py): that is
# the next tutorial.
#
# On the command line, this page is
#
# ```bash
# fastmunit translate --checkpoint fruit --input drawing.png --output out --styles 6
# fastmunit translate --checkpoint fruit --input drawing.png --output out --reference photo.jpg
# ```
#
# - [Train on a folder](train_on_a_folder.py)
# - [Styles](styles.py): banks of styles, nearest styles, and the directions in which they differ
# - [Evaluate a model](evaluate.py), and read the intervals
