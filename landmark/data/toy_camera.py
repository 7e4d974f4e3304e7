"""A pinhole camera before a toy landmark, and pictures on walls seen through it."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from landmark.data.toy_design import Design
from landmark.data.toy_facade import MARGIN, UNIT

_MOST_YAW = 35.0


@dataclass(frozen=True)
class Camera:
    """World: x along the front (the body is 0..1), y up, z away from the viewer, the front z = 0.

    Attributes:
        place: (3,) of the eye.
        turn: (3, 3) world directions to (right, down, forward).
        focal: in pixels.
        size: (width, height) of the photo.
    """

    place: NDArray[np.float64]
    turn: NDArray[np.float64]
    focal: float
    size: tuple[int, int]

    def matrix(self) -> NDArray[np.float64]:
        """Return (3, 3): direction from the eye to homogeneous pixels."""
        centre_x, centre_y = self.size[0] / 2, self.size[1] / 2
        inner = np.array([[self.focal, 0, centre_x], [0, self.focal, centre_y], [0, 0, 1.0]])
        return inner @ self.turn

    def horizon(self) -> float:
        """Return the height in pixels (from the top) at which the ground ends."""
        forward = self.turn[2] * np.array([1, 0, 1])
        _, y, depth = self.matrix() @ forward
        return float(y / depth)

    def pixel(self, point: tuple[float, float, float]) -> tuple[float, float]:
        """Return where a point of the world is seen."""
        x, y, depth = self.matrix() @ (np.array(point) - self.place)
        return float(x / depth), float(y / depth)


def draw_camera(design: Design, size: tuple[int, int], random: np.random.Generator) -> Camera:
    """Draw a viewpoint: direction, distance, height of the eye, zoom, aim and a slight roll."""
    yaw = math.radians(float(random.uniform(-_MOST_YAW, _MOST_YAW)))
    distance = float(random.uniform(1.8, 4.0)) * max(1.0, design.height)
    eye = float(random.choice([random.uniform(0.05, 0.2), random.uniform(0.2, 1.0)]))
    place = np.array([0.5 + distance * math.sin(yaw), eye, -distance * math.cos(yaw)])
    tall = design.height + design.roof_height
    share = float(math.exp(random.uniform(math.log(0.55), math.log(1.25))))
    focal = share * min(size[1] / tall, size[0] * 0.9) * distance
    loose = max(0.08, (share - 0.75) * 0.4)
    aim = np.array(
        [0.5 + random.uniform(-loose, loose), tall * (0.5 + random.uniform(-loose, loose)), 0.0]
    )
    return Camera(place, _looking(aim - place, random.normal(0, 2.5)), focal, size)


def _looking(direction: NDArray[np.float64], roll_degrees: float) -> NDArray[np.float64]:
    forward = direction / np.linalg.norm(direction)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    down = -np.cross(forward, right)
    roll = math.radians(roll_degrees)
    return np.stack(
        [
            math.cos(roll) * right + math.sin(roll) * down,
            -math.sin(roll) * right + math.cos(roll) * down,
            forward,
        ]
    )


def paste_front(photo: Image.Image, camera: Camera, front: Image.Image) -> None:
    """Draw the front onto the photo."""
    corner = np.array([-MARGIN, front.height / UNIT, 0.0])
    _paste_wall(photo, camera, front, corner, np.array([1.0, 0, 0]))


def paste_side(photo: Image.Image, camera: Camera, side: Image.Image) -> None:
    """Draw the side wall that the camera sees onto the photo."""
    seen = 0.0 if camera.place[0] < 0 else 1.0
    if 0 <= camera.place[0] <= 1:
        return
    corner = np.array([seen, side.height / UNIT, 0.0])
    _paste_wall(photo, camera, side, corner, np.array([0, 0, 1.0]))


def _paste_wall(
    photo: Image.Image,
    camera: Camera,
    picture: Image.Image,
    corner: NDArray[np.float64],
    along: NDArray[np.float64],
) -> None:
    """Draw a picture whose top left corner lies at `corner` and whose rows run `along`."""
    shrink = max(1, int(UNIT * np.linalg.norm(camera.place - corner) / camera.focal / 1.2))
    small = picture.reduce(shrink) if shrink > 1 else picture
    step = shrink / UNIT
    plane = np.stack([along * step, np.array([0, -step, 0]), corner - camera.place], axis=1)
    back = np.linalg.inv(camera.matrix() @ plane)
    layer = small.transform(
        photo.size,
        Image.Transform.PERSPECTIVE,
        tuple((back / back[2, 2]).flatten()[:8]),
        resample=Image.Resampling.BILINEAR,
    )
    photo.paste(layer, (0, 0), layer)
