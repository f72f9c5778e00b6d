"""What is written to archives is read strictly, and its samples are found without a journal."""

import io
import tarfile

import pytest

from lavieid_adapters.data.archive import BLOCK, END, archived, find_header, find_samples, read_files

A = archived("a.json", b"{}") + archived("a.maps.png", bytes(700))
B = archived("b.json", b"x" * 512)
C = archived("c.json", b"") + archived("c.x", b"y")


def keys(data: bytes, begin: int = 0) -> list[str]:
    return [sample.key for sample in find_samples(data, begin, len(data))[0]]


def test_any_tar_reads_what_is_written():
    with tarfile.open(fileobj=io.BytesIO(A + END)) as tar:
        assert [(m.name, m.size, m.mtime, m.uname) for m in tar] == [("a.json", 2, 0, ""), ("a.maps.png", 700, 0, "")]
    assert read_files(A) == {"a.json": b"{}", "a.maps.png": bytes(700)}


@pytest.mark.parametrize("harm", ["cut", "header", "second header", "longer", "nothing"])
def test_whatever_is_not_whole_is_an_error_when_read(harm):
    second = 2 * BLOCK
    data = {
        "cut": A[:-1],
        "header": b"\xff" * BLOCK + A[BLOCK:],
        "second header": A[:second] + b"\xff" * BLOCK + A[second + BLOCK :],
        "longer": A + bytes(BLOCK),
        "nothing": b"",
    }[harm]
    with pytest.raises(ValueError, match="no whole file at byte"):
        read_files(data)


def test_whole_samples_are_found_with_their_places():
    samples, end = find_samples(A + B + C + END, 0, len(A + B + C + END))
    assert [(s.key, s.begin, s.end) for s in samples] == [
        ("a", 0, len(A)),
        ("b", len(A), len(A + B)),
        ("c", len(A + B), len(A + B + C)),
    ]
    assert end == len(A + B + C)
    begin, stop = samples[1].contents["json"]
    assert (A + B)[begin:stop] == b"x" * 512
    assert find_samples(A + B + C, len(A), len(A + B))[0][0].key == "b"  # what the journal knows follows


@pytest.mark.parametrize("cut", range(0, len(C), 100))
def test_the_beginning_of_one_sample_is_not_taken_for_a_sample(cut):
    assert keys(A + B + C[:cut])[:1] == ["a"]
    assert "c" not in keys(A + B + C[:cut])
    assert keys(A + B + END + b"torn" * cut) == ["a", "b"]


def test_a_sample_behind_damage_is_an_error_and_so_never_cut_off():
    damaged = A + b"\xff" * BLOCK + B[BLOCK:] + C + END
    with pytest.raises(ValueError, match=r"c\.json follows 1024 bytes that belong to no sample"):
        find_samples(damaged, 0, len(damaged))


def test_only_a_regular_file_is_a_header():
    link = tarfile.TarInfo("a")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    assert find_header(link.tobuf()) is None
    assert find_header(bytes(BLOCK)) is None
    assert find_header(B[:BLOCK]) == ("b.json", 512)
