"""A folder of images described in Croissant's terms: its files with their sha256, and how to read
a record for each image from them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import mlcroissant as mlc  # pyright: ignore[reportMissingImports] (an install may be without)

VERSION: Any = "http://mlcommons.org/croissant/1.1"  # typed more narrowly than what it takes
FORMATS = {
    ".json": "application/json",
    ".jsonl": "application/jsonlines",
    ".safetensors": "application/octet-stream",
}
TYPES = {int: mlc.DataType.INTEGER, str: mlc.DataType.TEXT, list: mlc.DataType.FLOAT}
PNGS = "png"  # the id of the set of images


def description(folder: Path, lines: Path, about: dict[str, Any]) -> dict[str, Any]:
    """The JSON of `croissant.json`.

    Args:
        folder: it lies there.
        lines: below `folder`, the file of JSON lines on the images beside it; the first line shows
            what each says.
        about: what `mlcroissant.Metadata` calls name, description, license and so on.
    """
    with (folder / lines).open(encoding="utf-8") as file:
        first = json.loads(file.readline())
    fields = [field("image", mlc.DataType.IMAGE_OBJECT, of_png("content"))]
    for name, value in first.items():
        column = mlc.Source(file_object=lines.as_posix(), extract=mlc.Extract(column=name))
        if name == "file_name":  # what joins the images and the lines
            png = of_png("filename")
            fields.append(field(name, TYPES[str], png, references=column))
        elif isinstance(value, list):
            shape = {"is_array": True, "array_shape": str(len(value))}
            fields.append(field(name, TYPES[list], column, **shape))
        else:
            fields.append(field(name, TYPES[type(value)], column))
    files = [path for path in folder.rglob("*") if path.suffix in FORMATS]
    images = mlc.FileSet(
        id=PNGS,
        name=PNGS,
        encoding_formats=["image/png"],
        includes=[f"{lines.parent.as_posix()}/*.png"],
    )
    metadata = mlc.Metadata(
        ctx=mlc.Context(conforms_to=VERSION),
        distribution=[*(described(path, folder) for path in sorted(files)), images],
        record_sets=[mlc.RecordSet(id="images", name="images", fields=fields)],
        **about,
    )
    return metadata.to_json()


def described(path: Path, folder: Path) -> Any:
    """A file of the folder."""
    name = path.relative_to(folder).as_posix()
    return mlc.FileObject(
        id=name,
        name=name,
        content_url=name,
        encoding_formats=[FORMATS[path.suffix]],
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
    )


def field(name: str, kind: Any, source: Any, **more: Any) -> Any:
    """One thing that is known of an image."""
    return mlc.Field(id=f"images/{name}", name=name, data_types=[kind], source=source, **more)


def of_png(property: str) -> Any:
    """What a file of the images is, such as its content."""
    extract = mlc.Extract(file_property=mlc.FileProperty[property])
    return mlc.Source(file_set=PNGS, extract=extract)
