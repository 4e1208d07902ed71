"""Which medium a command reads or writes: by the class of a model folder's pipeline, or by a file's
suffix. What media are stands in `studio.rendering.media`. Nothing here imports torch."""

from pathlib import Path

from studio.rendering.media import IMAGE, MEDIA, VIDEO, Medium, medium_of

DEFAULT_NAME = "out"


def medium_of_folder(folder: Path) -> Medium:
    """What the pipeline of a model folder makes."""
    from studio.hub import read_index

    return medium_of(read_index(folder)["_class_name"])


def medium_of_file(path: Path) -> Medium:
    """What a file holds, by its suffix; a picture where the suffix says nothing."""
    suffix = path.suffix.lower()
    held = (medium for medium in MEDIA if suffix in (*medium.suffixes, *medium.others))
    return next(held, IMAGE)


def medium_read(path: Path, model: str | None) -> Medium:
    """As what a file is read by a model: a GIF is a clip for models of clips, and for others a
    picture, its first one. Raises ValueError for what a model of clips is given and is none."""
    from studio.hub import INDEX, find_folder

    medium = medium_of_file(path)
    folder = None if model is None else find_folder(model)
    wanted = medium_of_folder(folder) if folder and (folder / INDEX).is_file() else None
    if wanted is VIDEO and medium is not VIDEO:
        raise ValueError(f"model {model!r} is for clips, and {str(path)!r} is a {medium.noun}")
    if medium is VIDEO and path.suffix.lower() == ".gif" and (folder is None or wanted is IMAGE):
        return IMAGE
    return medium


def default_path(medium: Medium) -> Path:
    """Where a result goes when no file was named."""
    return Path(DEFAULT_NAME + medium.suffixes[0])
