"""Finding labelled files on disk: class folders and CSV files, and what is wrong with them."""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionloop.annotation import Annotation
from visionloop.cli.import_sources import packed
from visionloop.cli.imports import _annotation
from visionloop.cli.labelled_files import Columns, LabelledFile, batch_name, find, passed_over
from visionloop.errors import ConfigurationError, InvalidInputError, NotFoundError
from visionloop.image_file import read_image_file


def write(path: Path, text: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_folder_per_class(tmp_path: Path) -> None:
    for name in ("cat/b.jpg", "cat/deep/a.PNG", "dog/c.webp", "dog/notes.txt", ".trash/x.jpg"):
        write(tmp_path / name)
    found = find(tmp_path, Columns())
    assert [(f.source, f.label, f.row) for f in found] == [
        ("cat/b.jpg", "cat", 1),
        ("cat/deep/a.PNG", "cat", 2),
        ("dog/c.webp", "dog", 3),
    ]
    assert not any(f.unlabelled for f in found)


def test_images_beside_the_class_folders_wait_for_a_label(tmp_path: Path) -> None:
    for name in ("cat/b.jpg", "a.jpg", "notes.txt", ".hidden.jpg"):
        write(tmp_path / name)
    found = find(tmp_path, Columns())
    assert [(f.source, f.label, f.unlabelled) for f in found] == [
        ("cat/b.jpg", "cat", False),
        ("a.jpg", "", True),
    ]


@pytest.mark.parametrize(
    ("cell", "columns", "label", "classes"),
    [
        ("", Columns(), "", None),
        ("", Columns(unannotated="empty"), "", ()),
        ("a|b", Columns(), "a|b", None),
        (" b| a||b", Columns(separator="|"), "", ("b", "a")),
        ("", Columns(separator="|"), "", None),
        ("a", Columns(separator="|", unannotated="empty"), "", ("a",)),
    ],
)
def test_a_cell_says_one_class_several_or_none(
    tmp_path: Path, cell: str, columns: Columns, label: str, classes: tuple[str, ...] | None
) -> None:
    [found] = find(write(tmp_path / "t.csv", f"path,label\na.png,{cell}\n"), columns)
    assert (found.label, found.classes) == (label, classes)
    assert found.unlabelled == (not label and classes is None)


def test_what_a_cell_says_names_the_batch(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "path,label\na.png,\nb.png,x|y\n")
    said = (Columns(), Columns(separator="|"), Columns(unannotated="empty"))
    assert len({batch_name(find(table, columns)) for columns in said}) == 3


def test_names_that_are_not_utf_8_cost_their_own_rows_alone(tmp_path: Path) -> None:
    for name in (b"cat/b\xe4r.jpg", b"lat\xedn/a.jpg"):
        write(tmp_path / os.fsdecode(name))
    cat, latin = find(tmp_path, Columns())
    assert (cat.source, cat.label, cat.fault) == ("cat/b\\xe4r.jpg", "cat", "")
    assert cat.path.read_bytes() == b"x"
    assert "not UTF-8 (lat\\xedn)" in latin.fault
    assert (latin.label, latin.source) == ("lat\\xedn", "lat\\xedn/a.jpg")


def test_files_that_a_folder_import_leaves_out_are_counted(tmp_path: Path) -> None:
    for name in ("cat/b.jpg", "cat/deep/c.HEIC", "cat/d.heic", "cat/e", "notes.txt"):
        write(tmp_path / name)
    for hidden in (".DS_Store", "cat/.DS_Store", ".thumbnails/x.gif", "cat/.git/config"):
        write(tmp_path / hidden)
    assert passed_over(tmp_path) == {".heic": 2, "": 1, ".txt": 1}


def test_csv_columns_group_attributes_and_line_numbers(tmp_path: Path) -> None:
    table = write(
        tmp_path / "t.csv",
        '\ufefffile,kind,patient,site\na.png,ok,p1,"north\nwing"\nb.png, bad ,,\n',
    )
    found = find(table, Columns("file", "kind", "patient", ("site",)))
    assert [(f.row, f.path, f.label, f.group, f.attributes) for f in found] == [
        (3, tmp_path / "a.png", "ok", "p1", {"site": "north\nwing"}),
        (4, tmp_path / "b.png", "bad", "", {}),
    ]


@pytest.mark.parametrize(
    ("content", "columns", "said"),
    [
        ("path,label\n", Columns(), "no rows"),
        ("path,class\na,b\n", Columns(), "no column 'label'; it has path, class"),
        ("path,label\na,b\n", Columns(group="who"), "no column 'who'"),
        ("path,label\na,b\n", Columns(attributes=("x", "y")), "no column 'x', 'y'"),
        ("", Columns(), "it has no columns"),
        ('path,label\n"a,b\n', Columns(), "not a CSV file"),
        ("path;label\na;b\n", Columns(), "separated by semicolons"),
        ("path\tlabel\na\tb\n", Columns(), "separated by tabs"),
        ("path,label,label\na,b,c\n", Columns(), "column 'label' twice"),
    ],
)
def test_a_wrong_csv_is_told_in_words(
    tmp_path: Path, content: str, columns: Columns, said: str
) -> None:
    with pytest.raises(ConfigurationError, match=said.replace("(", r"\(")):
        find(write(tmp_path / "t.csv", content), columns)


def test_a_csv_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"\xff\xfe\x00path")
    with pytest.raises(ConfigurationError, match="not UTF-8"):
        find(tmp_path / "t.csv", Columns())


def test_a_nul_character_in_a_path_costs_its_own_row_alone(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    files = find(write(tmp_path / "t.csv", "path,label\na\0b.png,x\na.png,y\n"), Columns())
    assert batch_name(files).startswith("import-")
    with pytest.raises(InvalidInputError, match="null byte"):
        read_image_file(files[0].path)
    assert read_image_file(files[1].path) == b"x"


def test_linked_folders_are_entered_once(tmp_path: Path) -> None:
    """Data sets are built of links; what lies behind them was left out without a word."""
    write(tmp_path / "elsewhere" / "session" / "a.jpg")
    write(tmp_path / "set" / "cat" / "b.jpg")
    (tmp_path / "set" / "cat" / "more").symlink_to(tmp_path / "elsewhere" / "session")
    (tmp_path / "elsewhere" / "session" / "round").symlink_to(tmp_path / "set" / "cat")
    found = find(tmp_path / "set", Columns())
    assert [(file.source, file.label) for file in found] == [
        ("cat/b.jpg", "cat"),
        ("cat/more/a.jpg", "cat"),
    ]
    assert passed_over(tmp_path / "set") == {}


def test_wrong_paths_and_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="neither a folder nor a file"):
        find(tmp_path / "nowhere", Columns())
    with pytest.raises(ConfigurationError, match="neither images nor sub-folders"):
        find(tmp_path, Columns())
    write(tmp_path / "cat" / "readme.txt")
    write(tmp_path / "dog" / "rex.jpg")
    with pytest.raises(ConfigurationError, match="class 'cat' is empty"):
        find(tmp_path, Columns())


def test_short_rows_are_rows_with_an_empty_label(tmp_path: Path) -> None:
    found = find(write(tmp_path / "t.csv", "path,label\nonly.png\n"), Columns())
    assert [(f.source, f.label) for f in found] == [("only.png", "")]


def test_batch_name_follows_content(tmp_path: Path) -> None:
    image = write(tmp_path / "cat" / "a.jpg")
    before = batch_name(find(tmp_path, Columns()))
    assert before == batch_name(find(tmp_path, Columns()))
    image.write_text("other bytes")
    assert before != batch_name(find(tmp_path, Columns()))


@given(
    st.lists(
        st.tuples(st.text(max_size=5), st.text(max_size=5), st.text(max_size=5)),
        max_size=4,
        unique=True,
    )
)
def test_different_imports_have_different_names(rows: list[tuple[str, str, str]]) -> None:
    files = [
        LabelledFile(i, Path("/missing"), source, label, group)
        for i, (source, label, group) in enumerate(rows)
    ]
    name = batch_name(files)
    assert name == batch_name(list(files))
    for i in range(len(files)):
        assert batch_name(files[:i] + files[i + 1 :]) != name


def test_rows_of_another_length_are_faults_and_not_shifted_labels(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "path,label\na.png,Paris, France\nb.png\n ,x\nc.png,ok\n")
    faults = [row.fault for row in find(table, Columns())]
    for fault, said in zip(faults, ("more cells", "fewer cells", "'path') is empty"), strict=False):
        assert said in fault
    assert faults[3] == ""


@pytest.mark.parametrize(
    ("closed", "verb"),
    [
        ("photos/cat/deep", "import photos --dataset d"),
        ("photos/cat", "import photos --dataset d"),
        ("photos", "import photos --dataset d"),
        ("photos", "models list --store file://{}/photos"),
    ],
)
def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, closed: str, verb: str) -> None:
    write(tmp_path / "photos/cat/a.jpg")
    write(tmp_path / "photos/cat/deep/b.jpg")
    command = [sys.executable, "-m", "visionloop.cli", *verb.format(tmp_path).split()]
    if os.geteuid() == 0:  # modes mean nothing to root, unless these two rights are taken away
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}", *command]
    (tmp_path / closed).chmod(0)
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    finally:
        (tmp_path / closed).chmod(0o755)
    assert (done.returncode, len(done.stderr.splitlines())) in ((64, 1), (77, 1)), done.stderr
    assert closed in done.stderr
    assert "Permission denied" in done.stderr


def test_a_folder_that_is_packed_is_packed_once_though_links_go_round(tmp_path: Path) -> None:
    write(tmp_path / "set" / "images" / "a.jpg")
    write(tmp_path / "elsewhere" / "b.jpg")
    (tmp_path / "set" / "images" / "latest").symlink_to(tmp_path / "set")
    (tmp_path / "set" / "more").symlink_to(tmp_path / "elsewhere")
    with packed(tmp_path / "set", None) as archive, tarfile.open(archive) as reading:
        assert reading.getnames() == ["set/images/a.jpg", "set/more/b.jpg"]


def test_columns_of_numbers_are_soft_labels_and_weights(tmp_path: Path) -> None:
    text = (
        "path,label,good,cracked,w\na.png,,0.25,0.75,2\nb.png,good,,,\nc.png,,,,3\nd.png,good,,,x\n"
    )
    columns = Columns(probabilities=("good", "cracked"), weight="w")
    table = write(tmp_path / "t.csv", text)
    soft, plain, open_, wrong = find(table, columns)
    assert (soft.probabilities, soft.weight) == ({"good": 0.25, "cracked": 0.75}, 2.0)
    assert _annotation(soft) == Annotation(probabilities=soft.probabilities, weight=2.0)
    assert (plain.label, _annotation(plain)) == ("good", None)
    assert open_.unlabelled
    assert _annotation(open_) is None  # a weight is that of a label
    assert wrong.fault == "column 'w' holds 'x', which is no number"
    unread = find(table, Columns())
    assert batch_name([soft]) != batch_name(unread[:1])
    assert batch_name([plain]) == batch_name(unread[1:2])  # as it was called before
    [no_label] = find(
        write(tmp_path / "n.csv", "path,a,b\nx.png,1,0\n"), Columns(probabilities=("a", "b"))
    )
    assert no_label.probabilities == {"a": 1.0, "b": 0.0}
    with pytest.raises(ConfigurationError, match="has no column 'heavy'"):
        find(table, Columns(weight="heavy"))


def test_a_weighed_label_is_an_annotation_of_one_class(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "path,label,w\na.png,good,0\n")
    [found] = find(table, Columns(weight="w"))
    assert _annotation(found) == Annotation(classes=("good",), weight=0.0)
