"""harness data: describe images, encode them into latents, import those of other projects, check and describe them."""

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

from harness.cli.app import completion
from harness.cli.app.answer import CONTINUES_IT, progress_for, show
from harness.cli.app.application import App
from harness.cli.app.layout import facts
from harness.cli.app.options import Json, argument, count, option
from harness.cli.app.processes import start_all, together
from harness.system.errors import DataError, UsageError, some_of

data_app = App(help="Look at images; make and check sets of latents.")

VAE = "stabilityai/sd-vae-ft-ema"
SHOWN = 10  # classes, sizes and colours in an answer
Store = Annotated[Path, argument("A folder of latents.", "DIR")]
Out = Annotated[Path, option("Where the latents go.", "DIR")]
Images = Annotated[int | None, option("How many there must be: 1281167 for ImageNet.", "N", parser=count)]


@data_app.command(when_stopped=CONTINUES_IT)
def encode(
    images: Annotated[Path, argument("Images, in one folder a class.", "IMAGENET_DIR")],
    out: Out,
    vae: Annotated[
        str,
        option(
            "stabilityai/sd-vae-ft-ema or -mse, looked for in $HARNESS_VAE and $HARNESS_CACHE; a folder; random.",
            "ID",
            complete=completion.among(VAE, "stabilityai/sd-vae-ft-mse", "random"),
        ),
    ] = VAE,
    size: Annotated[int, option("Of the square cut out of each image.", "PIXELS", min=8, max=8192)] = 256,
    flips: Annotated[bool, option("Encode the mirror images too.", name="--flips")] = False,
    nproc: Annotated[int | None, option("Processes. Default: one per GPU or processor.", "N", min=1, max=4096)] = None,
    batch: Annotated[int, option("Images a process reads at once.", "N", min=1, max=65536)] = 32,
    as_json: Json = False,
) -> None:
    """Encode a folder of images with a VAE. The same command again continues, and replaces damaged shards.

    Examples: harness data encode imagenet/train --out latents/imagenet-256 --flips · harness data encode photos --vae
    ./my-vae --size 512 --out latents/photos
    """
    from harness.data.latents import encode
    from harness.data.latents import sets as latents

    nproc = encode.usual_processes(images) if nproc is None else nproc
    start_all(None if nproc == 1 else nproc)
    with together("data") as (world, progress):
        encode.encode(
            images, out, vae_id=vae, image_size=size, flips=flips, batch_size=batch, world=world, progress=progress
        )
    if world.is_main:
        show({"folder": str(out), **latents.info(out)}, as_json, facts)


@data_app.command("import", when_stopped=CONTINUES_IT)
def import_(
    source: Annotated[Path, argument("Latents that another project made.", "SOURCE")],
    format: Annotated[
        Literal["maskdit-lmdb", "fast-dit", "repa-zip", "safetensors"],
        option("maskdit-lmdb, fast-dit, repa-zip or safetensors.", "FORMAT", "--from"),
    ],
    out: Out,
    vae: Annotated[str, option("The VAE that made them, which no format records.", "ID")] = VAE,
    labels: Annotated[Path | None, option("A .npy file of labels, for sources that have none.", "FILE")] = None,
    classes: Annotated[int, option("Number of classes.", "N", min=1, max=10_000_000)] = 1000,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Convert another project's latents. The same command again continues.

    Examples: harness data import latents_lmdb --from maskdit-lmdb --out latents/imagenet-256 · harness data import
    features --from fast-dit --out latents/imagenet-256 --vae stabilityai/sd-vae-ft-mse
    """
    from harness.data import importers
    from harness.data.latents import sets as latents
    from harness.data.latents import vae as vaes

    with closing(progress_for("import")) as progress:
        importers.import_latents(
            format, source, out,
            vae=vaes.identity(vae), labels=labels, num_classes=classes, expected_images=images,
            advance=lambda done: progress.note(f"{done:,} images"),  # the total is unknown until all are read
        )  # fmt: skip
    show({"folder": str(out), **latents.info(out)}, as_json, facts)


@data_app.command()
def verify(folder: Store, images: Images = None, as_json: Json = False) -> None:
    """Read every latent and list what is wrong: exit code 4 if anything is.

    Examples: harness data verify latents/photos · harness data verify latents/imagenet-256 --images 1281167
    """
    from harness.data.latents import sets as latents
    from harness.data.latents import shards

    try:
        total = shards.read_manifest(folder).num_images
    except DataError:  # latents.verify reports it
        total = 0
    with closing(progress_for("data")) as progress:
        progress.stage("verify", total)
        problems = latents.verify(folder, expected_images=images, advance=progress.advance)
    document = {"folder": str(folder), "sound": not problems, "problems": problems}
    show(document, as_json, lambda _: problems or [f"{folder}: sound"])
    if problems:
        raise DataError(f"{folder} is not sound; what was found ({len(problems)}) is listed on stdout, and what to do.")


@data_app.command()
def info(
    source: Annotated[
        str,
        argument(
            "A folder of images or of latents, an .npz of images, or the name of a data set.",
            "PATH|NAME",
            completion.data_sets,
        ),
    ],
    out: Annotated[Path | None, option("Draw a contact sheet of the images.", "FILE.png")] = None,
    as_json: Json = False,
) -> None:
    """Describe a set of images or latents. Images are all read: exit code 4 if any would be refused.

    Examples: harness data info photos --out sheet.png · harness data info fashion-mnist · harness data info
    latents/imagenet-256 --json
    """
    from harness.data import sources

    if out and out.suffix != ".png":
        raise UsageError(f"--out is {out}; a contact sheet is a picture, so its name must end in .png.")
    if (folder := sources.latents_folder(source)) is not None:
        from harness.data.latents import sets as latents

        if out:
            raise UsageError(
                "--out draws images, and these are latents: harness data verify checks them. Leave it out."
            )
        return show({"folder": str(folder), **latents.info(folder)}, as_json, facts)

    from harness.data.images.info import describe
    from harness.evaluation.images.uint8 import class_grid, save_png

    with closing(progress_for("data")) as progress:

        def stage(total: int) -> Callable[[int], None]:
            progress.stage("reading images", total)
            return progress.advance

        found = describe(source, stage)
    if out:
        save_png(out, class_grid(*found.sheet()))
    show({**found.document, **({"contact_sheet": str(out)} if out else {})}, as_json, _image_lines)
    if found.refused:
        raise DataError(
            f"{source} cannot be trained on as it is; what is wrong ({len(found.refused)}) is listed above."
        )


def _image_lines(document: dict[str, Any]) -> list[str]:
    """What a person reads of a set of images."""
    counts = document["class_counts"].items()
    rows = {
        "images": f"{document['num_images']:,}",
        "classes": f"{document['num_classes']:,}: {some_of([f'{name} {count:,}' for name, count in counts], SHOWN)}",
        "sizes": some_of([f"{size}: {count:,}" for size, count in document["sizes"].items()], SHOWN) or "none",
        "colours": some_of([f"{mode}: {count:,}" for mode, count in document["modes"].items()], SHOWN) or "none",
        **({"contact sheet": document["contact_sheet"]} if "contact_sheet" in document else {}),
    }
    said = [f"refused: {reason}" for reason in document["refused"]] + document["remarks"]
    return [document["name"], *facts(rows), *said]
