"""A pinhole camera in front of a toy landmark, and the perspective view of its walls."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from landmark.toy.design import Design
from landmark.toy.facade import MARGIN, UNIT

Size = tuple[int, int]
_LARGEST_YAW = 35.0


@dataclass(frozen=True)
class Camera:
    """World coordinates: x along the front (the body is 0..1), y up, z away from the viewer.

    The front is at z = 0.

    Attributes:
        position: Position of the eye, (3,).
        rotation: World directions to (right, down, forward), (3, 3).
        focal: Focal length in pixels.
        size: (width, height) of the photo.
    """

    position: NDArray[np.float64]
    rotation: NDArray[np.float64]
    focal: float
    size: Size

    def matrix(self) -> NDArray[np.float64]:
        """Return (3, 3): directions from the eye to homogeneous pixels."""
        width, height = self.size
        return (
            np.array([[self.focal, 0, width / 2], [0, self.focal, height / 2], [0, 0, 1.0]])
            @ self.rotation
        )

    def row(self, direction: NDArray[np.float64]) -> float:
        """Return the pixel row, from the top, at which a direction from the eye (3,) is seen."""
        _, y, depth = self.matrix() @ direction
        return float(y / depth)


def draw_camera(design: Design, size: Size, random: Generator) -> Camera:
    """Draw a viewpoint: direction, distance, eye height, zoom, aim and a slight roll."""
    yaw = math.radians(random.uniform(-_LARGEST_YAW, _LARGEST_YAW))
    distance = random.uniform(1.8, 4.0) * max(1.0, design.height)
    eye = float(random.choice([random.uniform(0.05, 0.2), random.uniform(0.2, 1.0)]))
    position = np.array([0.5 + distance * math.sin(yaw), eye, -distance * math.cos(yaw)])
    height = design.height + design.roof_height
    zoom = math.exp(random.uniform(math.log(0.55), math.log(1.25)))
    focal = zoom * min(size[1] / height, size[0] * 0.9) * distance
    loose = max(0.08, (zoom - 0.75) * 0.4)
    x = 0.5 + random.uniform(-loose, loose)
    y = height * (0.5 + random.uniform(-loose, loose))
    rotation = _rotation(np.array([x, y, 0.0]) - position, random.normal(0, 2.5))
    return Camera(position, rotation, focal, size)


def _rotation(direction: NDArray[np.float64], roll_degrees: float) -> NDArray[np.float64]:
    forward = direction / np.linalg.norm(direction)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    down = -np.cross(forward, right)
    cos, sin = math.cos(math.radians(roll_degrees)), math.sin(math.radians(roll_degrees))
    return np.stack([cos * right + sin * down, -sin * right + cos * down, forward])


def paste_building(
    photo: Image.Image, camera: Camera, front: Image.Image, side: Image.Image
) -> None:
    """Draw the visible side wall, if any, and the front onto the photo."""
    x = camera.position[0]
    if not 0 <= x <= 1:
        _paste_wall(photo, camera, side, 0.0 if x < 0 else 1.0, [0, 0, 1.0])
    _paste_wall(photo, camera, front, -MARGIN, [1.0, 0, 0])


def _paste_wall(
    photo: Image.Image, camera: Camera, picture: Image.Image, left: float, along: list[float]
) -> None:
    """Draw an upright picture whose lower edge starts at (`left`, 0, 0) and runs `along`."""
    corner = np.array([left, picture.height / UNIT, 0.0]) - camera.position
    shrink = max(1, int(UNIT * np.linalg.norm(corner) / camera.focal / 1.2))
    small = picture.reduce(shrink) if shrink > 1 else picture
    step = shrink / UNIT
    plane = np.stack([np.array(along) * step, np.array([0, -step, 0]), corner], axis=1)
    back = np.linalg.inv(camera.matrix() @ plane)
    layer = small.transform(
        photo.size,
        Image.Transform.PERSPECTIVE,
        tuple((back / back[2, 2]).flatten()[:8]),
        resample=Image.Resampling.BILINEAR,
    )
    photo.paste(layer, (0, 0), layer)
