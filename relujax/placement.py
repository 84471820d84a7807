"""Where in a network the activations stand: the convolution : ReLU ratio as data.

A block has places where an activation may stand; `Slots` has one flag for each of them, in the order of the block's
figure. One flag alone stands for every place of the block. A `Placement` is used in turn, block after block, from the
first again when it ends: ((False,), (True,)) on single layers is 2:1, and ((False,), (True,), (True,)) is 3:2.

| block | places |
| --- | --- |
| layer of `Plain` | after its convolution |
| building block of `ResNet` | after conv1, after the sum |
| basic block of `PreActResNet` | before conv1, before conv2 |
| bottleneck block of `PreActResNet` | before conv1, before conv2, before conv3 |
| merge-and-run block of `DFNMR` | inside line a, inside line b, after the sum of a, after the sum of b |

Deviation: type 3 and the mixes of merge-and-run blocks are drawn in figures only; type 3 drops what types 1 and 2 drop,
a mix repeats the three types in turn.
"""

from relujax.errors import InputError

Slots = tuple[bool, ...]
Placement = tuple[Slots, ...]

PAIRED: Placement = ((True,),)  # an activation after every convolution, 1:1

# Single layers ("Rethinking ReLU", section IV-B): the last ReLU of the 1st, 3rd, 5th … layer goes.
TWO_TO_ONE: Placement = ((False,), (True,))

# Blocks with two places.
DROP_FIRST: Placement = ((False, True),)
DROP_LAST: Placement = ((True, False),)

# Pre-activation bottlenecks (Figs. 7 and 8 there): the 1st, 2nd or 3rd ReLU goes.
BOTTLENECK_TYPE_1: Placement = ((False, True, True),)
BOTTLENECK_TYPE_2: Placement = ((True, False, True),)
BOTTLENECK_TYPE_3: Placement = ((True, True, False),)

# Merge-and-run blocks (Fig. 5 there; "Training Better CNNs", Figs. 5 and 10): type 1 drops the ReLU after the sum of
# one line, type 2 the one inside one line.
TYPE_1: Placement = ((True, True, False, True),)
TYPE_2: Placement = ((False, True, True, True),)
TYPE_3: Placement = ((False, True, False, True),)
MIX_1: Placement = TYPE_1 + TYPE_2 + TYPE_3
MIX_2: Placement = TYPE_2 + TYPE_3 + TYPE_1
MIX_3: Placement = TYPE_3 + TYPE_1 + TYPE_2


def slots_of(placement: Placement, block: int, places: int) -> Slots:
    """The flags of the `block`-th block (from 0), one per place."""
    if not placement:
        raise InputError("a placement needs the slots of one block at least, e.g. ((True,),); got ()")
    slots = placement[block % len(placement)]
    if not isinstance(slots, tuple | list):
        raise InputError(
            f"a placement is a tuple of blocks of flags, e.g. ((False,), (True,)) for 2:1; got {placement!r}"
        )
    if len(slots) not in (1, places):
        raise InputError(f"this block has {places} places, so its slots need 1 or {places} flags; got {slots}")
    return slots * places if len(slots) == 1 else slots
