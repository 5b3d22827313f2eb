"""The command `fastmunit configs`."""

from fastmunit.cli.output import echo


def configs() -> None:
    """List the shipped configurations, which --config accepts by name.

    To change one, add --set KEY=VALUE to `fastmunit train`, or pass the path of your own YAML file to --config.
    """
    from importlib import resources

    from fastmunit.config import Config

    names = Config.shipped()
    width = max((len(name) for name in names), default=0)
    for name in names:
        text = (resources.files("fastmunit") / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
        comment = text.splitlines()[0].lstrip("# ").rstrip() if text.startswith("#") else ""
        settings = Config.load(name)
        facts = (
            f"{settings.crop_image_width}x{settings.crop_image_height}, batch {settings.batch_size}, "
            f"{settings.max_iter:,} iterations"
        )
        echo(f"{name:<{width}}  {facts}" + (f"; {comment}" if comment else ""))
