"""Published colour tables of segmentation datasets, for `data.mask_colors`."""

from __future__ import annotations

from collections.abc import Callable

from components.image_example_gen.class_list import ClassList, Color

# Ignored colours become this id. It is above every class id.
IGNORE_ID = 255


def _camvid() -> ClassList:
    """Returns the 31 classes of CamVid; Void is ignored.

    Reference: Brostow et al. 2009, "Semantic object classes in video: A high-definition ground truth database",
    Pattern Recognition Letters 30(2), table 1; colours from the database's own `label_colors.txt`.
    """
    colors: dict[str, Color] = {
        "Animal": (64, 128, 64),
        "Archway": (192, 0, 128),
        "Bicyclist": (0, 128, 192),
        "Bridge": (0, 128, 64),
        "Building": (128, 0, 0),
        "Car": (64, 0, 128),
        "CartLuggagePram": (64, 0, 192),
        "Child": (192, 128, 64),
        "Column_Pole": (192, 192, 128),
        "Fence": (64, 64, 128),
        "LaneMkgsDriv": (128, 0, 192),
        "LaneMkgsNonDriv": (192, 0, 64),
        "Misc_Text": (128, 128, 64),
        "MotorcycleScooter": (192, 0, 192),
        "OtherMoving": (128, 64, 64),
        "ParkingBlock": (64, 192, 128),
        "Pedestrian": (64, 64, 0),
        "Road": (128, 64, 128),
        "RoadShoulder": (128, 128, 192),
        "Sidewalk": (0, 0, 192),
        "SignSymbol": (192, 128, 128),
        "Sky": (128, 128, 128),
        "SUVPickupTruck": (64, 128, 192),
        "TrafficCone": (0, 0, 64),
        "TrafficLight": (0, 64, 64),
        "Train": (192, 64, 128),
        "Tree": (128, 128, 0),
        "Truck_Bus": (192, 128, 192),
        "Tunnel": (64, 0, 64),
        "VegetationMisc": (192, 192, 0),
        "Wall": (64, 192, 0),
    }
    return ClassList(tuple(colors), IGNORE_ID, tuple(colors.values()), ((0, 0, 0),))


def _pascal_voc() -> ClassList:
    """Returns the 21 classes of Pascal VOC; the border of objects is ignored.

    Reference: Everingham et al., PASCAL VOC 2012 development kit, `VOClabelcolormap.m`: bit n of red, green and blue is
    bit 3n, 3n + 1 and 3n + 2 of the id, the lowest bit of the id first in the highest bit of the colour.
    """

    def color(class_id: int) -> Color:
        red, green, blue = (
            sum((class_id >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8)) for channel in range(3)
        )
        return red, green, blue

    names = (
        *("background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
        *("diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
    )
    return ClassList(names, IGNORE_ID, tuple(map(color, range(len(names)))), (color(IGNORE_ID),))


def _cityscapes() -> ClassList:
    """Returns the 19 evaluated classes of Cityscapes in the order of their training ids; the others are ignored.

    `polegroup` has the colour of `pole`, and `license plate` that of `car`: colours cannot distinguish them.

    Reference: Cordts et al. 2016, https://arxiv.org/abs/1604.01685, section 2.2; colours from
    `cityscapesscripts/helpers/labels.py` of the dataset's own scripts.
    """
    colors: dict[str, Color] = {
        "road": (128, 64, 128),
        "sidewalk": (244, 35, 232),
        "building": (70, 70, 70),
        "wall": (102, 102, 156),
        "fence": (190, 153, 153),
        "pole": (153, 153, 153),
        "traffic light": (250, 170, 30),
        "traffic sign": (220, 220, 0),
        "vegetation": (107, 142, 35),
        "terrain": (152, 251, 152),
        "sky": (70, 130, 180),
        "person": (220, 20, 60),
        "rider": (255, 0, 0),
        "car": (0, 0, 142),
        "truck": (0, 0, 70),
        "bus": (0, 60, 100),
        "train": (0, 80, 100),
        "motorcycle": (0, 0, 230),
        "bicycle": (119, 11, 32),
    }
    ignored: dict[str, Color] = {
        "unlabeled, ego vehicle, rectification border, out of roi, static": (0, 0, 0),
        "dynamic": (111, 74, 0),
        "ground": (81, 0, 81),
        "parking": (250, 170, 160),
        "rail track": (230, 150, 140),
        "guard rail": (180, 165, 180),
        "bridge": (150, 100, 100),
        "tunnel": (150, 120, 90),
        "caravan": (0, 0, 90),
        "trailer": (0, 0, 110),
    }
    return ClassList(tuple(colors), IGNORE_ID, tuple(colors.values()), tuple(ignored.values()))


_TABLES: dict[str, Callable[[], ClassList]] = {
    "camvid": _camvid,
    "pascal_voc": _pascal_voc,
    "cityscapes": _cityscapes,
}


def get(name: str) -> ClassList:
    """Returns the classes of a dataset with their colours, by the name in `data.mask_colors`."""
    return _TABLES[name]()
