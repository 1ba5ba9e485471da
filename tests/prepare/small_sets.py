"""Small data sets in the very forms that their owners publish: tar, tgz with .mat, zip, a tree."""

import gzip
import io
import tarfile
import zipfile
from hashlib import md5, sha256
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse
from PIL import Image

from segkit.data.labels import VOC
from segkit.prepare import cityscapes, voc
from segkit.prepare.cityscapes import Package
from segkit.prepare.known import Budget, Known

TRAIN, VAL = ["2007_000001", "2007_000002", "2007_000003"], ["2007_000010", "2007_000011"]
SBD_ONLY = ["2008_000001", "2008_000002", "2009_000003"]
SBD_TRAIN, SBD_VAL = [TRAIN[0], SBD_ONLY[0], VAL[0]], [SBD_ONLY[1], SBD_ONLY[2]]
TRAINAUG = sorted(TRAIN + SBD_ONLY)
COUNTS = {"train": 3, "val": 2, "trainval": 5, "trainaug": 6, "trainval_aug": 8}
HEIGHT, WIDTH = 12, 17
SMALL = Budget(bytes=10**7, files=1000)


def labels_of(name: str, classes: int = 21, border: bool = True) -> np.ndarray:
    """Any labels, the same for the same name; VOC's own have a border of 255, SBD's do not."""
    seed = int.from_bytes(md5(name.encode()).digest()[:4], "big")
    labels = np.random.default_rng(seed).integers(0, classes, (HEIGHT, WIDTH), dtype=np.uint8)
    if border:
        labels[0] = 255
    return labels


def picture(mode: str, array: np.ndarray, form: str = "PNG") -> bytes:
    image = Image.fromarray(array, mode)
    if mode == "P":
        image.putpalette([value for colour in VOC.colours for value in colour])
    buffer = io.BytesIO()
    image.save(buffer, form)
    return buffer.getvalue()


def photo(name: str, form: str = "JPEG") -> bytes:
    grey = labels_of(name, 256, border=False)
    return picture("RGB", np.stack([grey, grey, grey], 2), form)


def mat(labels: np.ndarray) -> bytes:
    """As SBD's: a struct with a cell of sparse boundaries beside the label map."""
    cells = np.empty((20, 1), object)
    for index in range(20):
        cells[index, 0] = scipy.sparse.csc_matrix((labels == index + 1).astype(float))
    fields = {"Boundaries": cells, "Segmentation": labels, "CategoriesPresent": np.unique(labels)}
    buffer = io.BytesIO()
    scipy.io.savemat(buffer, {"GTcls": fields}, do_compression=True)
    return buffer.getvalue()


# -- trees, as names and contents ------------------------------------------------------------------

Tree = dict[str, bytes]


def listing(names: list[str]) -> bytes:
    return "".join(f"{name}\n" for name in names).encode()


def voc_tree(images: list[str] | None = None) -> Tree:
    names = TRAIN + VAL + SBD_ONLY if images is None else images
    root = "VOCdevkit/VOC2012"
    lists = {"train": TRAIN, "val": VAL, "trainval": sorted(TRAIN + VAL)}
    return {
        **{f"{root}/JPEGImages/{name}.jpg": photo(name) for name in names},
        **{f"{root}/Annotations/{name}.xml": b"<annotation/>" for name in names},
        **{
            f"{root}/SegmentationClass/{name}.png": picture("P", labels_of(name))
            for name in TRAIN + VAL
        },
        **{f"{root}/ImageSets/Segmentation/{s}.txt": listing(n) for s, n in lists.items()},
        f"{root}/ImageSets/Main/train.txt": b"other things\n",
    }


def sbd_tree() -> Tree:
    root = "benchmark_RELEASE/dataset"
    names = SBD_TRAIN + SBD_VAL
    return {
        **{f"{root}/cls/{n}.mat": mat(labels_of(f"sbd {n}", border=False)) for n in names},
        **{f"{root}/inst/{n}.mat": b"not looked at" for n in names},
        **{f"{root}/img/{n}.jpg": photo(n) for n in names},
        f"{root}/train.txt": listing(SBD_TRAIN),
        f"{root}/val.txt": listing(SBD_VAL),
    }


def aug_tree(inner: str = "SegmentationClassAug") -> Tree:
    """What others made of it: grey PNGs, VOC's own masks among them."""
    own = {name: labels_of(name) for name in TRAIN + VAL}
    extra = {name: labels_of(f"sbd {name}", border=False) for name in SBD_ONLY}
    return {f"{inner}/{n}.png": picture("L", labels) for n, labels in (own | extra).items()}


def segnet_tree() -> Tree:
    tree: Tree = {}
    for split, names in {"train": ["a1", "a2"], "val": ["b1"], "test": ["c1"]}.items():
        lines = (
            f"/SegNet/CamVid/{split}/{n}.png /SegNet/CamVid/{split}annot/{n}.png" for n in names
        )
        tree[f"CamVid/{split}.txt"] = "\n".join(lines).encode()
        for name in names:
            tree[f"CamVid/{split}/{name}.png"] = photo(name, "PNG")
            annotated = picture("L", labels_of(name, 12, border=False))
            tree[f"CamVid/{split}annot/{name}.png"] = annotated
    return tree


CITIES = {
    "train": ["aachen", "bochum"],
    "val": ["ulm"],
    "test": ["bonn"],
    "train_extra": ["erfurt"],
}


def street(kind: str, splits: tuple[str, ...]) -> Tree:
    tree: Tree = {f"{kind}/README": b"terms"}
    for split in splits:
        for city in CITIES[split]:
            name = f"{kind}/{split}/{city}/{city}_000000_000019"
            if kind == "leftImg8bit":
                tree[f"{name}_leftImg8bit.png"] = photo(name, "PNG")
            else:
                labels = labels_of(name, 34, border=False)
                tree[f"{name}_{kind}_labelIds.png"] = picture("L", labels)
                tree[f"{name}_{kind}_color.png"] = b"not wanted"
                tree[f"{name}_{kind}_polygons.json"] = b"{}"
    return tree


def lay(tree: Tree, folder: Path) -> Path:
    for name, content in tree.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


# -- archives --------------------------------------------------------------------------------------


def tar(tree: Tree, path: Path) -> Path:
    with tarfile.open(path, "w") as archive:
        folders = {str(p) for name in tree for p in list(Path(name).parents)[:-1]}
        for name in sorted(folders):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o2755
            archive.addfile(folder)
        for name, content in tree.items():
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def tgz(tree: Tree, path: Path) -> Path:
    plain = tar(tree, path.with_suffix(".plain")).read_bytes()
    path.with_suffix(".plain").unlink()
    path.write_bytes(gzip.compress(plain, mtime=0))
    return path


def zipped(tree: Tree, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in tree.items():
            archive.writestr(zipfile.ZipInfo(name, (2020, 1, 1, 0, 0, 0)), content)
    return path


def facts_of(voc_tar: Path | None, sbd_tgz: Path | None, address: str = "") -> voc.Facts:
    """Facts whose sums are those of these archives."""

    def known(name: str, path: Path | None) -> Known:
        found = md5(path.read_bytes()).hexdigest() if path else "0" * 32
        return Known(name, SMALL, md5=found, address=address and f"{address}{name}")

    return voc.Facts(
        COUNTS,
        known(voc.VOC_TAR.name, voc_tar),
        known(voc.SBD_TGZ.name, sbd_tgz),
        Known(voc.AUG_ZIP.name, SMALL),
    )


def street_zips(folder: Path) -> cityscapes.Facts:
    """The four zips, small, and the facts about them."""
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        "leftImg8bit_trainvaltest.zip": ("leftImg8bit", ("train", "val", "test")),
        "gtFine_trainvaltest.zip": ("gtFine", ("train", "val", "test")),
        "gtCoarse.zip": ("gtCoarse", ("train", "val", "train_extra")),
        "leftImg8bit_trainextra.zip": ("leftImg8bit", ("train_extra",)),
    }
    packages = []
    for name, (kind, splits) in contents.items():
        path = zipped(street(kind, splits), folder / name)
        known = Known(name, SMALL, sha256=sha256(path.read_bytes()).hexdigest())
        wanted = [split for split in splits if kind != "gtFine" or split != "test"]
        packages.append(Package(known, kind, {split: len(CITIES[split]) for split in wanted}))
    return cityscapes.Facts(tuple(packages[:2]), tuple(packages[2:]))


def fingerprint(folder: Path) -> str:
    """One sum over names and contents of everything below ``folder``."""
    total = sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            content = sha256(path.read_bytes()).hexdigest()
            total.update(f"{path.relative_to(folder)} {content}\n".encode())
    return total.hexdigest()


def fingerprint_of_data(root: Path) -> dict[str, str]:
    """``fingerprint`` of every folder of a room that is not hidden."""
    shown = (path for path in root.iterdir() if not path.name.startswith("."))
    return {path.name: fingerprint(path) for path in shown}
