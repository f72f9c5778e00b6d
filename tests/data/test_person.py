"""The reference is a good one and the right person's, and every frame's map is that person's."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

pytest.importorskip("av")

from support.tiny_clips import BLUE, GREEN, LANDMARKS, RED, draw, drawn_faces, walk

from lavieid_adapters import DetectedFace
from lavieid_adapters.data.clips import Clip, Rejected
from lavieid_adapters.data.person import find_person, person_maps, reference_score
from lavieid_adapters.faces.facexlib_models import FFHQ_LANDMARKS

SECONDS = [i / 8 for i in range(9)]


def person(*clips, **kwargs):
    """`find_person` of a clip with these frames."""
    (clip, frames), *others = clips
    known = {other: (np.stack(pixels), SECONDS) for other, pixels in others}

    def read(other):
        if known[other][0].max() == 0:
            raise Rejected("unreadable")
        return known[other]

    return find_person(
        kwargs.pop("processor", None) or drawn_faces(), clip, np.stack(frames), SECONDS, list(known), read, **kwargs
    )


def clip(name: str = "a", **kwargs) -> Clip:
    return Clip(Path(f"{name}.mp4"), "She walks.", **kwargs)


# how good a reference is


def noisy(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (200, 200, 3), np.uint8)


def face(landmarks=None, score: float = 0.9, box=(40, 40, 160, 160)) -> DetectedFace:
    return DetectedFace(box, score, 100 + 60 * LANDMARKS if landmarks is None else landmarks)


def test_a_surer_a_sharper_and_a_more_frontal_face_is_the_better_reference():
    best = reference_score(noisy(), face())
    assert 0.5 < best <= 0.9
    assert reference_score(noisy(), face(score=0.45)) == pytest.approx(best / 2)
    blurred = [best]
    for radius in (1, 2, 4, 8):
        image = np.asarray(Image.fromarray(noisy()).filter(ImageFilter.GaussianBlur(radius)))
        blurred.append(reference_score(image, face()))
    assert blurred == sorted(blurred, reverse=True) and blurred[-1] < 0.05
    turned = [best]
    for angle in (0.1, 0.2, 0.3):  # the nose goes to the side
        landmarks = 100 + 60 * LANDMARKS
        landmarks[2, 0] += 60 * angle
        turned.append(reference_score(noisy(), face(landmarks)))
        landmarks[2, 0] -= 120 * angle
        assert reference_score(noisy(), face(landmarks)) == pytest.approx(turned[-1])
    assert turned == sorted(turned, reverse=True) and turned[-1] < 0.2
    nodding = []
    for shift in (0, 15, 30):
        landmarks = 100 + 60 * LANDMARKS
        landmarks[2, 1] += shift
        nodding.append(reference_score(noisy(), face(landmarks)))
    assert nodding == sorted(nodding, reverse=True)


def test_the_formula_is_the_documented_one():
    image, box = noisy(), (40, 40, 168, 168)  # 128 pixels: nothing is resized
    grey = np.asarray(Image.fromarray(image[40:168, 40:168]).convert("L"), float)
    laplacian = np.zeros((126, 126))
    for y in range(126):
        for x in range(126):
            near = grey[y : y + 3, x : x + 3]
            laplacian[y, x] = near[0, 1] + near[2, 1] + near[1, 0] + near[1, 2] - 4 * near[1, 1]
    sharpness = laplacian.var() / (laplacian.var() + 100)
    landmarks = np.array([(80.0, 80), (120, 80), (105, 105), (85, 120), (115, 120)])
    frontality = (1 - abs(2 * 25 / 40 - 1)) * (1 - abs(25 / 40 - 0.56) / 0.44)
    assert reference_score(image, face(landmarks, 0.8, box)) == pytest.approx(0.8 * sharpness * frontality)


def test_the_template_of_aligned_faces_is_frontal_and_does_not_depend_on_turns_of_the_picture():
    upright = reference_score(noisy(), face(FFHQ_LANDMARKS / 3))
    assert upright > 0.85
    turned = FFHQ_LANDMARKS / 3 @ np.array([[0.8, 0.6], [-0.6, 0.8]])
    assert reference_score(noisy(), face(turned)) == pytest.approx(upright, abs=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        face(np.full((5, 2), 100.0)),
        face(box=(300, 300, 400, 400)),
        face(box=(100, 100, 100, 100)),
        face(score=0.0),
        face(100 + 60 * LANDMARKS + np.eye(5)[:, 2:3] * [60, 0]),
    ],
    ids=["one point", "beyond the image", "empty", "not found", "the nose beside the eyes"],
)
def test_what_is_no_face_scores_nothing(bad):
    assert 0 <= reference_score(noisy(), bad) < 0.2
    assert reference_score(noisy(), face(score=7.0)) <= 1


# whose clip it is


def test_a_given_photo_is_the_reference(tmp_path):
    Image.fromarray(draw((RED, 60, 60, 40), size=(120, 120))).save(tmp_path / "me.png")
    features, place, maps = person((clip(reference="me.png", folder=tmp_path), walk()))
    assert place == "me.png"
    assert features.aligned[256, 256].tolist() == list(RED)
    assert maps.shape == (9, 64, 96) and maps.dtype == np.uint8 and not (maps == 255).any()
    assert set(np.unique(maps)) == set(range(7))


def test_maps_follow_the_person_through_the_frames():
    _, _, maps = person((clip(), walk()))
    for i, component_map in enumerate(maps):
        rows, columns = np.nonzero(component_map)
        assert columns.mean() == pytest.approx(36 + 3 * i, abs=0.7) and rows.mean() == pytest.approx(32, abs=0.7)
        assert component_map[15, 36 + 3 * i] == 6 and component_map[34, 36 + 3 * i] == 4  # hair, nose
        assert (component_map > 0).sum() == pytest.approx(np.pi * 19.6**2, rel=0.08)


def test_without_a_photo_the_best_frame_of_the_clip_is_the_reference():
    frames = [np.asarray(Image.fromarray(f).filter(ImageFilter.GaussianBlur(1.5))) for f in walk()]
    frames[5] = walk()[5]
    scores = [reference_score(f, drawn_faces().detect(f)[0]) for f in frames]
    assert np.argmax(scores) == 5 and sorted(scores)[-2] < scores[5] / 1.5
    _, place, _ = person((clip(), frames))
    assert place == f"a.mp4#t={5 / 8:.3f}"


def test_another_clip_of_the_person_gives_the_reference_and_the_same_one_each_time():
    others = [(clip(name), walk(start=30)) for name in "bcde"]
    places = {person((clip(person="x"), walk()), *others)[1] for _ in range(3)}
    assert len(places) == 1 and places.pop()[0] in "bcde"
    chosen = {person((Clip(Path("a.mp4"), f"Caption {i}.", person="x"), walk()), *others)[1][0] for i in range(10)}
    assert len(chosen) > 2  # which one is up to the clip's key


def test_a_clip_is_not_its_own_other_clip():
    _, place, _ = person((clip(person="x"), walk()), (Clip(Path("a.mp4"), "Another caption.", person="x"), walk()))
    assert place.startswith("a.mp4#t=")


def test_another_clip_that_is_of_no_use_is_passed_over():
    none, unreadable = [draw()] * 9, [np.zeros((64, 96, 3), np.uint8)] * 9
    _, place, _ = person((clip(), walk()), (clip("b"), none), (clip("c"), unreadable), (clip("d"), walk()))
    assert place.startswith("d.mp4")
    _, place, _ = person((clip(), walk()), (clip("b"), none), (clip("c"), unreadable))
    assert place.startswith("a.mp4")


def two(i: int, red: float = 24, blue: float = 70) -> np.ndarray:
    """Two people, the blue one larger, who have changed places by the end."""
    return draw((RED, red + 6 * i, 20, 12), (BLUE, blue - 6 * i, 46, 15))


def where(maps: np.ndarray) -> list[tuple[float, float]]:
    return [tuple(np.mean(np.nonzero(m), axis=1).round()[::-1]) for m in maps]


def test_of_several_people_the_one_who_is_like_the_reference_is_followed(tmp_path):
    frames = [two(i) for i in range(9)]
    for colour, x, step, y in ((RED, 24, 6, 20), (BLUE, 70, -6, 46)):
        Image.fromarray(draw((colour, 60, 60, 40), size=(120, 120))).save(tmp_path / "me.png")
        _, _, maps = person((clip(reference="me.png", folder=tmp_path), frames))
        np.testing.assert_allclose(where(maps), [(x + step * i, y) for i in range(9)], atol=1.5)


def test_without_a_photo_the_largest_person_is_meant():
    _, _, maps = person((clip(), [two(i) for i in range(9)]))
    np.testing.assert_allclose(where(maps), [(70 - 6 * i, 46) for i in range(9)], atol=1.5)


def test_without_a_recognizer_the_person_is_followed_by_place():
    frames = [draw((GREEN, 20 + i, 32, 15), (BLUE, 70 - i, 32, 14 + (i > 2) * 3)) for i in range(9)]
    processor = drawn_faces(recognizer=None)
    faces = [processor.detect(frame) for frame in frames]
    reference = processor(frames[0], face_index="largest")
    maps = person_maps(processor, np.stack(frames), faces, reference)
    np.testing.assert_allclose(where(maps), [(20 + i, 32) for i in range(9)], atol=1.5)


def test_a_frame_without_the_face_is_unknown_as_a_whole():
    frames = walk()
    frames[3] = frames[7] = draw()
    _, _, maps = person((clip(), frames))
    assert [bool((m == 255).all()) for m in maps] == [i in (3, 7) for i in range(9)]
    assert maps[[i for i in range(9) if i not in (3, 7)]].max() == 6


@pytest.mark.parametrize(("count", "share", "fits"), [(4, 0.5, False), (5, 0.5, True), (1, 0, True), (0, 0, False)])
def test_too_few_frames_with_a_face_reject_the_clip(count, share, fits):
    frames = [*walk(frames=count), *[draw()] * (9 - count)]
    if fits:
        person((clip(), frames), min_face_share=share)
        return
    with pytest.raises(Rejected) as caught:
        person((clip(), frames), min_face_share=share)
    assert (caught.value.reason, caught.value.detail) == ("no face", f"one was found in {count} of 9 frames")


def test_a_reference_that_cannot_be_used_rejects_the_clip(tmp_path):
    Image.fromarray(draw(size=(120, 120))).save(tmp_path / "nobody.png")
    Image.fromarray(draw((RED, 60, 60, 7), size=(120, 120))).save(tmp_path / "far.png")
    (tmp_path / "text.png").write_text("no picture")
    for name, reason, detail in (
        ("nobody.png", "no face in the reference", "No face was found"),
        ("far.png", "no face in the reference", "smaller than 16 pixels"),
        ("text.png", "unreadable reference", "is not an image"),
        ("none.png", "unreadable reference", "There is no photo"),
    ):
        with pytest.raises(Rejected) as caught:
            person((clip(reference=name, folder=tmp_path), walk()))
        assert caught.value.reason == reason and detail in caught.value.detail
