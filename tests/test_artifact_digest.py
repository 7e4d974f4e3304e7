"""The digest of a table changes with its content, and with nothing else."""

import pandas as pd

from landmark.data.image_table import digest_of_table


def test_the_digest_of_a_table_depends_on_every_value_name_and_order():
    frame = pd.DataFrame({"id": ["a", "b"], "width": [3.0, None], "split": ["train", None]})
    others = [
        frame.iloc[::-1],
        frame.rename(columns={"width": "height"}),
        frame[["width", "id", "split"]],
        frame.fillna({"width": 4.0}),
        frame.fillna({"split": ""}),
        frame.assign(id=["a", "c"]),
        frame.iloc[:1],
    ]
    digests = [digest_of_table(one) for one in (frame, *others)]
    assert len(set(digests)) == len(digests)
    assert digest_of_table(frame.copy()) == digests[0]
    assert all(len(one) == 16 for one in digests)
