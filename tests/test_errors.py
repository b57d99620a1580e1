"""A wrong name is answered with the nearest right one."""

from infoprune.errors import unknown


def test_the_nearest_name_is_offered():
    assert str(unknown("criterion", "hrell", ["cmi", "hrel"])) == "unknown criterion 'hrell': did you mean 'hrel'?"


def test_without_a_near_name_all_are_listed():
    assert "choose one of cmi, hrel" in str(unknown("criterion", "xyzzy", ["hrel", "cmi"]))
