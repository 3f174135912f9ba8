from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bids_msseg.training.data.folds import Split, balanced_split


@st.composite
def cohorts(draw: st.DrawFn) -> tuple[dict, dict, dict, int]:
    count = draw(st.integers(2, 5))
    names = [f"p{number}" for number in range(draw(st.integers(count, 25)))]
    people = {
        name: [f"{name}_{visit}" for visit in range(draw(st.integers(1, 3)))] for name in names
    }
    sites = {name: draw(st.sampled_from("ABC")) for name in names}
    loads = {name: draw(st.floats(0, 80)) for name in names}
    return people, sites, loads, count


@given(cohort=cohorts())
def test_each_participant_is_in_one_fold_with_all_visits(cohort) -> None:
    people, sites, loads, count = cohort
    split = balanced_split(people, sites, loads, count)
    assert len(split.folds) == count
    dealt = [name for fold in split.folds for name in fold]
    assert sorted(dealt) == sorted(name for visits in people.values() for name in visits)
    for visits in people.values():
        assert sum(set(visits) <= set(fold) for fold in split.folds) == 1


@given(cohort=cohorts())
def test_sites_and_participants_are_balanced_over_folds(cohort) -> None:
    people, sites, loads, count = cohort
    split = balanced_split(people, sites, loads, count)
    who = [{name.partition("_")[0] for name in fold} for fold in split.folds]
    for site in set(sites.values()):
        shares = Counter(fold for fold in range(count) for p in who[fold] if sites[p] == site)
        sizes = [shares[fold] for fold in range(count)]
        assert max(sizes) - min(sizes) <= 1
    sizes = [len(members) for members in who]
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


@given(cohort=cohorts(), shuffled=st.randoms())
def test_split_does_not_depend_on_participant_order(cohort, shuffled) -> None:
    people, sites, loads, count = cohort
    names = list(people)
    shuffled.shuffle(names)
    again = balanced_split({name: people[name] for name in names}, sites, loads, count)
    assert again == balanced_split(people, sites, loads, count)


def test_lesion_loads_are_balanced_over_folds() -> None:
    people = {f"p{n}": [f"v{n}"] for n in range(9)}
    loads = {f"p{n}": float(n) for n in range(9)}
    split = balanced_split(people, dict.fromkeys(people, "X"), loads, 3)
    assert [
        sum(int(name[1:]) // 3 == hand for name in fold)
        for fold in split.folds
        for hand in range(3)
    ] == [1] * 9


def test_too_few_participants_are_refused() -> None:
    with pytest.raises(ValueError, match="2 participants cannot fill 3 folds"):
        balanced_split({"a": ["a"], "b": ["b"]}, {"a": "X", "b": "X"}, {"a": 1, "b": 1}, 3)


def test_split_members_and_remaining_folds() -> None:
    split = Split((("a", "b"), ("c",), ("d",)))
    assert split.without(1) == (0, 2)
    assert split.members((0, 2)) == ("a", "b", "d")
    assert split.everything == (0, 1, 2)
    assert split.sources(0) == ((1, (2,)), (2, (1,)))


def test_all_visits_of_the_highest_load_are_in_the_first_fold() -> None:
    people = {"a": ["a1"], "b": ["b1", "b2"], "c": ["c1"]}
    split = balanced_split(people, dict.fromkeys(people, "X"), {"a": 1, "b": 9, "c": 5}, 3)
    assert split.folds == (("b1", "b2"), ("c1",), ("a1",))


@given(count=st.integers(3, 6))
def test_refinement_sources_exclude_test_fold(count: int) -> None:
    split = Split(tuple((str(fold),) for fold in range(count)))
    for test in (None, *range(count)):
        pairs = split.sources(test)
        assert [fold for fold, _ in pairs] == [f for f in range(count) if f != test]
        for fold, seen in pairs:
            assert fold not in seen
            assert test not in seen
            assert seen
