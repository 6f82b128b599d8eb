"""Folders of images: classes from three places, cropping, colours, and bad files named."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from stylegan2_msp.data.sources.folder import folder
from stylegan2_msp.errors import UserError


def save(path: Path, size: tuple[int, int] = (8, 8), mode: str = "L", value: object = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)  # type: ignore[arg-type]
    return path


def pets(root: Path, count: int = 5) -> Path:
    for k, name in enumerate(("dog", "cat")):
        for i in range(count):
            save(root / name / f"{i}.png", value=10 * i + 100 * k)
    return root


def test_class_per_sub_folder(tmp_path: Path) -> None:
    samples = folder(pets(tmp_path))
    assert samples.class_names == ["cat", "dog"]
    assert samples.classes.tolist() == [0] * 5 + [1] * 5
    assert samples.data[:, 0, 0, 0].tolist() == [100, 110, 120, 130, 140, 0, 10, 20, 30, 40]
    assert samples.split is None


def test_hidden_files_and_folders_are_no_data(tmp_path: Path) -> None:
    pets(tmp_path)
    for hidden in (".ipynb_checkpoints/x.png", "dog/.thumbs/x.png", "cat/._0.png", "__MACOSX/dog/._0.png"):
        save(tmp_path / hidden)
    samples = folder(tmp_path)
    assert samples.class_names == ["cat", "dog"]
    assert len(samples.data) == 10


def test_numbered_folders_keep_their_order(tmp_path: Path) -> None:
    for k in (0, 2, 10):
        save(tmp_path / str(k) / "a.png")
    assert folder(tmp_path).class_names == ["0", "2", "10"]


APART = "Gru\u0308n"  # as the Finder of macOS stores it; a keyboard gives "Gr\u00fcn"


def test_accents_are_stored_as_they_are_typed(tmp_path: Path) -> None:
    """Before, no name that was typed fitted, and the order of the classes was another than on Linux."""
    save(tmp_path / APART / "0.png")
    save(tmp_path / "Gruz" / "0.png", value=200)
    samples = folder(tmp_path)
    assert samples.class_names == ["Gruz", "Gr\u00fcn"]
    assert samples.data[:, 0, 0, 0][np.argsort(samples.classes)].tolist() == [200, 100]


def test_a_table_from_elsewhere_names_files_of_the_finder(tmp_path: Path) -> None:
    save(tmp_path / "pets" / f"{APART}.png")
    save(tmp_path / "pets" / "b.png")
    rows = f"Gr\u00fcn.png,{APART}\nb.png,Gr\u00fcn\n"
    (tmp_path / "labels.csv").write_text(rows, encoding="utf-8")
    samples = folder(tmp_path / "pets", labels=tmp_path / "labels.csv")
    assert samples.class_names == ["Gr\u00fcn"]
    assert samples.classes.tolist() == [0, 0]


def test_a_folder_whose_name_is_no_text_is_a_class(tmp_path: Path) -> None:
    """No figure could show it: training ended with a traceback."""
    odd = tmp_path / os.fsdecode(b"M\xfcll")
    try:
        save(odd / "0.png")
    except OSError:
        pytest.skip("a file system of UTF-8 names")
    save(tmp_path / "a" / "0.png")
    assert folder(tmp_path).class_names == ["M\\udcfcll", "a"]


def test_zip_is_as_good_as_a_folder(tmp_path: Path) -> None:
    pets(tmp_path / "pets")
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in (tmp_path / "pets").rglob("*.png"):
            archive.write(path, path.relative_to(tmp_path / "pets"))
    one, other = folder(tmp_path / "pets"), folder(tmp_path / "pets.zip")
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.classes, other.classes)


def test_classes_from_dataset_json(tmp_path: Path) -> None:
    save(tmp_path / "00000" / "a.png")
    save(tmp_path / "00000" / "b.png")
    manifest = {"labels": [["00000/b.png", 0], ["00000/a.png", 2]], "class_names": ["x", "y", "z"]}
    (tmp_path / "dataset.json").write_text(json.dumps(manifest))
    samples = folder(tmp_path)
    assert samples.classes.tolist() == [2, 0]
    assert samples.class_names == ["x", "y", "z"]


@pytest.mark.parametrize("header", ["file,class\n", "", "\ufeff"])
def test_classes_from_csv(tmp_path: Path, header: str) -> None:
    pets(tmp_path / "pets", 1)
    (tmp_path / "labels.csv").write_text(header + 'dog/0.png,"big, brown"\n./cat/0.png,small\n', encoding="utf-8")
    samples = folder(tmp_path / "pets", labels=tmp_path / "labels.csv")
    assert samples.class_names == ["big, brown", "small"]
    assert samples.classes.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dog/0.png,a\n", r"names 1 of 2 images, not 'cat/0.png'"),
        ("dog/0.png,a\ndog/0.png,b\n", r"row 2: 'dog/0.png' comes twice"),
        ("dog/0.png,a\nbird.png,b\n", r"row 2: 'bird.png' is not among"),
        ("dog/0.png\n", r"row 1 has 1 columns, expected file,class"),
        ('dog/0.png,"a\n', r"is no CSV"),
        (None, r"cannot be read"),
    ],
)
def test_bad_csv(tmp_path: Path, text: str | None, message: str) -> None:
    pets(tmp_path / "pets", 1)
    if text is not None:
        (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        folder(tmp_path / "pets", labels=tmp_path / "labels.csv")


def test_images_without_folders_have_no_classes(tmp_path: Path) -> None:
    save(tmp_path / "a.png")
    assert folder(tmp_path).classes is None
    save(tmp_path / "dog" / "b.png")
    with pytest.raises(UserError, match=r"'a.png' lies in no class folder"):
        folder(tmp_path)


def test_middle_square_is_kept(tmp_path: Path) -> None:
    """A wide image, black at both ends and white in the middle third, becomes white."""
    pixels = np.zeros((20, 60, 3), dtype=np.uint8)
    pixels[:, 20:40] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (folder(tmp_path, resolution=16).data == 255).all()
    Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2))).save(tmp_path / "wide.png")
    assert folder(tmp_path).data.shape == (1, 3, 16, 16)
    assert (folder(tmp_path, resolution=32).data == 255).all()


def test_images_of_the_right_size_are_untouched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(folder(tmp_path).data[0], pixels.transpose(2, 0, 1))


def test_shrinking_averages(tmp_path: Path) -> None:
    """A fine chessboard becomes grey, not black or white (no aliasing)."""
    Image.fromarray(((np.indices((64, 64)).sum(axis=0) % 2) * 255).astype(np.uint8)).save(tmp_path / "a.png")
    assert np.abs(folder(tmp_path, resolution=8).data.astype(int) - 127).max() <= 6


@pytest.mark.parametrize(
    ("mode", "value", "expected"),
    [
        ("L", 90, [90]),
        ("1", 1, [255]),
        ("LA", (90, 255), [90]),
        ("RGB", (1, 2, 3), [1, 2, 3]),
        ("RGBA", (200, 100, 50, 255), [200, 100, 50]),
        ("RGBA", (200, 100, 50, 0), [0, 0, 0]),
        ("I;16", 0x4321, [0x43]),
    ],
)
def test_colours(tmp_path: Path, mode: str, value: object, expected: list[int]) -> None:
    save(tmp_path / "a.png", mode=mode, value=value)
    assert folder(tmp_path).data[0, :, 3, 3].tolist() == expected


def test_palette_and_mixed_images_become_rgb(tmp_path: Path) -> None:
    save(tmp_path / "a.png", value=77)
    Image.new("RGB", (8, 8), (10, 200, 30)).quantize(4).save(tmp_path / "b.png")
    assert folder(tmp_path).data[:, :, 0, 0].tolist() == [[77, 77, 77], [10, 200, 30]]


def test_grey_images_in_colour_files_are_grey_beside_grey_ones(tmp_path: Path) -> None:
    """Colour anywhere makes all RGB; a folder of colour files alone stays as it is."""
    save(tmp_path / "a.png", mode="RGB", value=(9, 9, 9))
    assert folder(tmp_path).data.shape == (1, 3, 8, 8)
    save(tmp_path / "b.png", mode="I;16", value=0x4321)
    Image.new("RGB", (8, 8), (200, 200, 200)).quantize(4).save(tmp_path / "c.png")
    assert folder(tmp_path).data[:, :, 3, 3].tolist() == [[9], [0x43], [200]]
    save(tmp_path / "d.png", mode="RGB", value=(1, 2, 3))
    assert folder(tmp_path).data[:, :, 3, 3].tolist() == [[9] * 3, [0x43] * 3, [200] * 3, [1, 2, 3]]


def test_12_bits_in_16_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "a.png", mode="I;16", value=4095)
    save(tmp_path / "b.tif", mode="I;16", value=2000)
    save(tmp_path / "c.png", value=3)  # 8 bits may be dark
    folder(tmp_path)
    line = "2 of its 2 images of 16 bits are nearly black (no pixel above 15 of 255)"
    assert line in capsys.readouterr().err
    for name in "def":
        save(tmp_path / f"{name}.png", mode="I;16", value=40000)
    folder(tmp_path)
    assert "nearly black" not in capsys.readouterr().err


def test_photographs_are_turned_upright(tmp_path: Path) -> None:
    pixels = np.zeros((8, 8), dtype=np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(folder(tmp_path).data[0, 0], pixels[::-1])


def test_bad_images_are_named(tmp_path: Path) -> None:
    pets(tmp_path, 2)
    good = (tmp_path / "cat" / "0.png").read_bytes()
    (tmp_path / "cat" / "1.png").write_bytes(good[:50])
    with pytest.raises(UserError, match=r"'cat/1.png': is a damaged image .*replace or remove it$"):
        folder(tmp_path)
    (tmp_path / "dog" / "0.png").write_text("hello")
    with pytest.raises(UserError, match=r"'cat/1.png'.*\(2 of 4 images cannot be used; the others: 'dog/0.png'\)"):
        folder(tmp_path)


def test_no_images(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        folder(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match="holds no images"):
        folder(tmp_path)


def test_splits_and_subsets(tmp_path: Path) -> None:
    pets(tmp_path, 10)
    values = {split: folder(tmp_path, split=split).data[:, 0, 0, 0].tolist() for split in ("train", "test", "all")}
    assert len(values["test"]) == 4
    assert sorted(values["train"] + values["test"]) == sorted(values["all"])
    assert len(folder(tmp_path, max_images=7)) == 7
    tiny = pets(tmp_path / "tiny", 1)
    with pytest.raises(UserError, match="no images are left in the split 'test'"):
        folder(tiny, split="test")


def test_links_to_folders_are_followed_but_not_in_a_ring(tmp_path: Path) -> None:
    pets(tmp_path / "photos", 2)
    pets(tmp_path / "elsewhere", 3)
    (tmp_path / "photos" / "bird").symlink_to(tmp_path / "elsewhere" / "cat")
    samples = folder(tmp_path / "photos")
    assert samples.class_names == ["bird", "cat", "dog"]
    assert np.bincount(samples.classes).tolist() == [3, 2, 2]
    for lost in ("itself.png", "nowhere.png"):
        (tmp_path / "photos" / "cat" / lost).symlink_to(lost.replace("nowhere", "gone"))
    assert len(folder(tmp_path / "photos")) == 7
    (tmp_path / "photos" / "dog" / "up").symlink_to(tmp_path / "photos")
    with pytest.raises(UserError, match="up: is a link to a folder that it lies in; remove it"):
        folder(tmp_path / "photos")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_their_exif_says(tmp_path: Path, orientation: int) -> None:
    corners = np.array([[0, 80], [160, 240]], dtype=np.uint8).repeat(4, 0).repeat(4, 1)
    exif = Image.Exif()
    exif[274] = orientation
    (tmp_path / "a").mkdir()
    Image.fromarray(corners).save(tmp_path / "a" / "x.png", exif=exif)
    shown = ImageOps.exif_transpose(Image.open(tmp_path / "a" / "x.png"))
    np.testing.assert_array_equal(folder(tmp_path).data[0, 0], np.asarray(shown))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("damage", [b"MM\x00*\xff\xff\xff\xff", b"II*\x00\x08\x00\x00\x00\xff\xff", b"", b"nonsense"])
def test_damaged_exif_data_leave_a_photo_as_it_is(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "a").mkdir()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(tmp_path / "a" / "x.png", exif=b"Exif\x00\x00" + damage)
    assert folder(tmp_path).data[0, :, 0, 0].tolist() == [10, 20, 30]


@pytest.mark.parametrize(("mode", "key", "rest"), [("L", 100, (50,)), ("RGB", (100, 0, 0), (0, 50, 0))])
def test_a_colour_that_stands_for_transparent_becomes_black(
    tmp_path: Path, mode: str, key: object, rest: tuple[int, ...]
) -> None:
    (tmp_path / "a").mkdir()
    img = Image.new(mode, (8, 8), key)  # type: ignore[arg-type]
    img.paste(rest if mode == "RGB" else rest[0], (0, 0, 8, 4))
    img.save(tmp_path / "a" / "x.png", transparency=key)
    data = folder(tmp_path).data[0]
    assert data[:, 0, 0].tolist() == list(rest)
    assert not data[:, 7, 7].any()


def test_colour_that_comes_late_makes_all_images_rgb(tmp_path: Path) -> None:
    for i in range(70):  # more than are read at once
        save(tmp_path / "a" / f"{i:02d}.png", value=i)
    save(tmp_path / "b" / "x.png", mode="RGB", value=(1, 2, 3))
    data = folder(tmp_path).data
    assert data.shape == (71, 3, 8, 8)
    assert data[:70, :, 3, 3].tolist() == [[i] * 3 for i in range(70)]
    assert data[70, :, 3, 3].tolist() == [1, 2, 3]


def test_what_macos_puts_into_zips_is_no_image(tmp_path: Path) -> None:
    pets(tmp_path / "pets", 2)
    with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
        for path in (tmp_path / "pets").rglob("*.png"):
            name = path.relative_to(tmp_path / "pets")
            archive.write(path, name)
            archive.writestr(f"__MACOSX/{name.parent}/._{name.name}", b"resource fork")
    samples = folder(tmp_path / "pets.zip")
    assert samples.class_names == ["cat", "dog"]
    assert len(samples) == 4


def test_files_of_other_formats_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pets(tmp_path / "pets")
    (root / "bird").mkdir()
    for name in ("bird/a.HEIC", "bird/b.heic", "cat/c.gif", "notes.txt", "cat/.hidden"):
        (root / name).write_bytes(b"x")
    assert folder(root).class_names == ["cat", "dog"]
    told = capsys.readouterr().err
    assert "left out 2 .heic, 1 .gif, 1 .txt; only PNG" in told
    assert told.endswith("so these folders are no classes: bird\n")
    assert told.count("\n") == 1


def test_nothing_is_said_where_every_file_is_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = pets(tmp_path / "pets")
    Image.new("RGB", (8, 8)).save(root / "cat" / "saved-by-a-browser.jfif", format="JPEG")
    assert len(folder(root)) == 11
    assert "left out" not in capsys.readouterr().err


def test_class_folders_that_lie_one_deeper_are_told_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pets(tmp_path / "pets")
    assert folder(tmp_path).class_names == ["pets"]
    told = capsys.readouterr().err
    assert "the one folder 'pets', which is the only class" in told
    assert "(cat, dog), give as --source what is in it" in told
    assert told.count("\n") == 1


def test_a_class_with_folders_of_its_own_is_no_cause_for_doubt(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pets(tmp_path / "pets")
    save(tmp_path / "plants" / "a.png")
    assert folder(tmp_path).class_names == ["pets", "plants"]
    save(tmp_path / "alone" / "plants" / "monday" / "a.png")
    assert folder(tmp_path / "alone").class_names == ["plants"]
    assert "warning" not in capsys.readouterr().err
