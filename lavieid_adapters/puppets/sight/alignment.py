"""Alignment of a drawn face, by its landmarks and without a network."""

# h w pixels of the photo

import numpy as np

from ...faces.components import ALIGNED_SIZE, GREY, warp_picture

# Where the eyes, the nose and the corners of the mouth lie in the aligned face, in the proportions of the mean of drawn
# people. Some 3.5 pixels of it are one of a photo, so that there is room for the hair, and at a fourth of its size it
# looks like a photo again.
TEMPLATE = np.array([[202, 269], [310, 269], [256, 324], [218, 359], [294, 359]], np.float64)


def alignment(landmarks: np.ndarray) -> np.ndarray:
    """Find the rotation, scale and shift (2, 3) that bring landmarks (5, 2) nearest to the template's: least squares.

    Raises:
        ValueError: If they all lie in one point.
    """
    source = np.asarray(landmarks, np.float64) @ (1, 1j)  # as complex numbers: a rotation and a scale are one factor
    target = TEMPLATE @ (1, 1j)
    around = source - source.mean()
    spread = np.vdot(around, around).real
    if not spread > 0:
        raise ValueError(f"The landmarks are {np.asarray(landmarks).tolist()}, but must be five different points.")
    factor = np.vdot(around, target - target.mean()) / spread
    shift = target.mean() - factor * source.mean()
    return np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]])


class Aligner:
    """An aligner to `TEMPLATE` by Pillow: as facexlib's, with more room around the head."""

    fingerprint = "puppets"

    def align(self, image: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cut the aligned face out of an image (h, w, 3), uint8.

        Args:
            image: RGB.
            landmarks: The eyes, the nose and the corners of the mouth, left to right, (5, 2), in pixels.

        Returns:
            The face, (512, 512, 3), uint8, and the matrix (2, 3) that brought it there.
        """
        matrix = alignment(landmarks)
        return warp_picture(image, matrix, (ALIGNED_SIZE, ALIGNED_SIZE), GREY), matrix
