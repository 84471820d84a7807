"""What is known of every dataset before it is read: sizes, labels, where it comes from, and how to recognise it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Published:
    """Mean and std of the training pixels for each channel as printed in `source`, where white is `white`."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    white: float
    decimals: int
    source: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of a dataset before it is read; the defaults are those of MNIST and its replacements."""

    shape: tuple[int, int, int] = (28, 28, 1)  # (H, W, C)
    train: int = 60_000
    test: int = 10_000
    num_classes: int = 10
    version: str = "3.0.1"  # of the TFDS builder
    megabytes: int  # to download
    page: str
    licence: str
    labels: Mapping[str, str] = field(default_factory=dict)  # digest → what a report calls the dataset
    published: Published | None = None  # decides where the digest is not known; all classes are of one size then
    large: bool = False  # pictures of any size, more than memory holds: made square and kept as memory maps, unsorted
    splits: tuple[str, str] = SPLITS  # what TFDS calls ours
    by_hand: str = ""  # how to come by the records of a set that cannot be downloaded


CIFAR_PAGE = "https://www.cs.toronto.edu/~kriz/cifar.html"
FUSENET = "github.com/zlmzju/fusenet"

DATASETS = {
    "digits": Facts(
        train=1437,
        test=360,
        version="scikit-learn",
        megabytes=0,
        page="https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
        licence="CC BY 4.0",
        labels={"490e7c2bb07745e77a5b7c8c71b501b7000b2d7b1d05b530dc71e96fea4b9c35": "digits"},
    ),
    "mnist": Facts(
        megabytes=12,
        page="http://yann.lecun.com/exdb/mnist/",
        licence="CC BY-SA 3.0",
        labels={"6cf27fd96beea04e3747df06a2f8935dcaedd0720b4a63c18328ffd380a94d6c": "mnist"},
    ),
    "fashion_mnist": Facts(
        megabytes=31,
        page="https://github.com/zalandoresearch/fashion-mnist",
        licence="MIT",
        published=Published((0.2860,), (0.3530,), 1, 4, "usual normalisation of Fashion-MNIST"),
    ),
    "kmnist": Facts(
        megabytes=21,
        page="http://codh.rois.ac.jp/kmnist/index.html.en",
        licence="CC BY-SA 4.0",
        published=Published((0.1918,), (0.3483,), 1, 4, "usual normalisation of KMNIST"),
    ),
    "cifar10": Facts(
        shape=(32, 32, 3),
        train=50_000,
        version="3.0.2",
        megabytes=170,
        page=CIFAR_PAGE,
        licence="none stated",
        # Known by their digest: the official pictures after JPEG; good for rehearsals only.
        labels={"ebd4161ee786033f7061ea3cfcb7d09530ecaec999b0c527246be6fe6e3e7fba": "cifar10 (recompressed)"},
        published=Published((125.307, 122.950, 113.865), (62.993, 62.089, 66.705), 255, 3, FUSENET),
    ),
    "cifar100": Facts(
        shape=(32, 32, 3),
        train=50_000,
        num_classes=100,
        version="3.0.2",
        megabytes=169,
        page=CIFAR_PAGE,
        licence="none stated",
        published=Published((129.304, 124.070, 112.434), (68.170, 65.392, 70.418), 255, 3, FUSENET),
    ),
    "imagenet2012": Facts(
        shape=(256, 256, 3),
        train=1_281_167,
        test=50_000,
        num_classes=1000,
        version="5.1.0",
        megabytes=154_642,
        page="https://image-net.org",
        licence="non-commercial research and education",
        large=True,
        splits=("train", "validation"),  # the labels of the test images were never published
        by_hand="that needs an account: fetch ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar from "
        "https://image-net.org/download-images, prepare them with `tfds build imagenet2012 --file_format=array_record "
        "--manual_dir=… --data_dir=DIR` (its official builder, needs TensorFlow), and name --data-dir DIR",
    ),
}
