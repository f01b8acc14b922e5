"""The cast of a simulation follows from the seed alone, and what cannot be cast is refused before anything runs."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from secure_fu.config import SimulationConfig
from secure_fu.config_file import from_dict, load_preset, with_overrides
from secure_fu.errors import ConfigError, DataError
from secure_fu.learning import FlatModel, Records, digits
from secure_fu.privacy import Unit
from secure_fu.scenario import Scenario, build_scenario


def configured(preset: str = "digits-silos", *settings: str) -> SimulationConfig:
    return with_overrides(load_preset(preset), settings)


def small(data: dict[str, Any], **tables: dict[str, Any]) -> SimulationConfig:
    protocol = {"minimum_cohort": 3, "colluders": 1}
    return from_dict({"name": "small", "data": {"clients": 3, **data}, "protocol": protocol, **tables})


def same(first: Records, second: Records) -> bool:
    return torch.equal(first.features, second.features) and torch.equal(first.labels, second.labels)


def marked(scenario: Scenario) -> dict[str, np.ndarray]:
    return scenario.request.identify_all(scenario.clients)


# The seed


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "label"])
def test_a_seed_fixes_split_model_and_request(partition: str) -> None:
    settings = (f"data.partition={partition}", "deletion.scope=records", "deletion.count=5", "seed=3")
    first, second = (build_scenario(configured("digits-silos", *settings)) for _ in range(2))
    assert list(first.clients) == list(second.clients)
    assert all(same(first.clients[name], second.clients[name]) for name in first.clients)
    assert same(first.test, second.test)
    assert same(first.held_out, second.held_out)
    assert first.request == second.request
    assert first.joins == second.joins
    np.testing.assert_array_equal(FlatModel(first.module).vector(), FlatModel(second.module).vector())


def test_another_seed_differs_in_split_model_and_request() -> None:
    settings = ("deletion.scope=records", "deletion.count=5")
    first, second = (build_scenario(configured("digits-silos", *settings, f"seed={seed}")) for seed in (0, 1))
    assert not same(first.test, second.test)
    assert not any(same(first.clients[name], second.clients[name]) for name in first.clients)
    assert not np.array_equal(FlatModel(first.module).vector(), FlatModel(second.module).vector())
    assert first.request.records != second.request.records


def test_another_seed_deals_records_in_another_way(tmp_path: Path) -> None:
    file = tmp_path / "table.npz"  # records all alike but for a number, so that only the deal can differ
    np.savez(file, features=np.arange(40.0)[:, None], labels=np.zeros(40, dtype=np.int64))
    config = small({"source": "npz", "path": str(file), "test_fraction": 0.01})
    deals = []
    for seed in (0, 1):
        scenario = build_scenario(with_overrides(config, [f"seed={seed}"]))
        missing = scenario.test.features.flatten().tolist()
        deals.append([set(records.features.flatten().tolist()) for records in scenario.clients.values()])
        assert set.union(*deals[-1], missing) == set(range(40))
    # one record more or less is the split's doing
    assert len(deals[0][0] & deals[1][0]) < 10


def test_a_seed_leaves_the_global_generators_alone() -> None:
    before, state = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    build_scenario(configured())
    assert torch.equal(before, torch.random.get_rng_state())
    np.testing.assert_array_equal(state, np.random.get_state()[1])


# Who has what


def test_every_record_is_at_one_client_or_held_out() -> None:
    scenario = build_scenario(configured("digits-silos", "deletion.backdoor=false"))
    data = digits(seed=0)
    assert [len(records) for records in scenario.clients.values()] == [144] * 7 + [143] * 3
    everything = torch.cat([records.features for records in scenario.clients.values()])
    order = [torch.from_numpy(np.lexsort(part.flatten(1).T.numpy())) for part in (everything, data.train.features)]
    assert torch.equal(everything[order[0]], data.train.features[order[1]])
    assert same(scenario.test, data.test)
    assert scenario.held_out is scenario.test
    assert scenario.trigger is None


def test_names_sort_as_their_numbers_do() -> None:
    scenario = build_scenario(configured("digits-silos", "data.clients=120", "data.client_prefix=clinic"))
    assert list(scenario.clients)[:2] == ["clinic-000", "clinic-001"]
    assert list(scenario.clients) == sorted(scenario.clients)
    assert scenario.request.client == "clinic-119"


def test_fewer_records_are_a_part_of_all() -> None:
    scenario = build_scenario(configured("digits-silos", "data.records=100", "deletion.backdoor=false"))
    assert sum(len(records) for records in scenario.clients.values()) == 100
    known = {row.numpy().tobytes() for row in digits(seed=0).train.features}
    chosen = [row.numpy().tobytes() for records in scenario.clients.values() for row in records.features]
    assert set(chosen) <= known
    assert len(scenario.test) == 360


def test_who_joins_late_is_who_leaves() -> None:
    scenario = build_scenario(configured("digits-silos", "deletion.client=silo-03"))
    assert scenario.joins == {"silo-03": 60}
    assert scenario.request.client == "silo-03"
    assert build_scenario(configured("digits-silos", "deletion.joined_at=0")).joins == {}


def test_the_model_is_what_the_configuration_says() -> None:
    scenario = build_scenario(configured("digits-silos", "model.hidden=[16, 8]"))
    assert scenario.model_name == "MLP 64-16-8-10"
    assert FlatModel(scenario.module).dimension == 64 * 16 + 16 + 16 * 8 + 8 + 8 * 10 + 10
    assert build_scenario(configured("breast-cancer-silos")).model_name == "logistic 30-2"
    images = build_scenario(configured("digits-silos", "model.kind=cnn", "model.channels=[4, 6]"))
    assert images.model_name == "CNN 1x8x8-4-6-10"
    assert FlatModel(images.module).dimension == (9 * 4 + 4) + (9 * 4 * 6 + 6) + (6 * 2 * 2 * 10 + 10)
    assert images.module(images.test.features[:5]).shape == (5, 10)


def test_convolutions_need_images() -> None:
    with pytest.raises(ConfigError, match="no images") as caught:
        build_scenario(configured("breast-cancer-silos", "model.kind=cnn"))
    assert caught.value.argument == "model.kind"


def test_units_are_counted_by_their_kind(tmp_path: Path) -> None:
    file = tmp_path / "visits.csv"
    rows = [f"{i},{i % 3},{i % 2},patient-{i // 4}" for i in range(80)]
    file.write_text("\n".join(["a,b,label,person", *rows]))
    config = small({"source": "csv", "path": str(file), "group_column": "person", "partition": "group"})
    scenario = build_scenario(config)
    assert scenario.count_units(Unit.CLIENT) == 3
    assert scenario.count_units(Unit.RECORD) == 64
    assert scenario.count_units(Unit.GROUP) == 16
    with pytest.raises(DataError, match="have no groups"):
        build_scenario(configured()).count_units(Unit.GROUP)


# The backdoor


def test_the_backdoor_is_on_exactly_the_records_to_be_forgotten() -> None:
    settings = ["deletion.scope=records", "deletion.count=7", "deletion.backdoor_label=4", "deletion.joined_at=0"]
    with_trigger = build_scenario(configured("digits-silos", *settings))
    without = build_scenario(configured("digits-silos", *settings, "deletion.backdoor=false"))
    marks = marked(with_trigger)
    assert sum(int(mask.sum()) for mask in marks.values()) == 7
    for name, mask in marks.items():
        poisoned, clean = with_trigger.clients[name], without.clients[name]
        assert same(poisoned.subset(~mask), clean.subset(~mask))
        chosen, original = poisoned.subset(mask), clean.subset(mask)
        assert (chosen.labels == 4).all()
        assert (chosen.features[:, :, 0] == 1.0).all()
        assert torch.equal(chosen.features[:, :, 1:], original.features[:, :, 1:])


def test_held_out_records_carry_the_trigger_and_test_records_do_not() -> None:
    scenario = build_scenario(configured())
    assert same(scenario.test, digits(seed=0).test)
    assert (scenario.held_out.features[:, :, 0] == 1.0).all()
    assert (scenario.held_out.labels == 0).all()
    assert torch.equal(scenario.held_out.features[:, :, 1:], scenario.test.features[:, :, 1:])
    assert scenario.trigger is not None
    assert scenario.trigger.target == 0


def test_a_backdoor_label_must_be_a_class() -> None:
    with pytest.raises(ConfigError, match="expected a class below 10") as caught:
        build_scenario(configured("digits-silos", "deletion.backdoor_label=10"))
    assert caught.value.argument == "deletion.backdoor_label"


def test_a_trigger_needs_images() -> None:
    with pytest.raises(ConfigError, match=r"shape \(30,\) are no images") as caught:
        build_scenario(configured("breast-cancer-silos", "deletion.backdoor=true"))
    assert caught.value.argument == "deletion.backdoor"


# Requests


def test_some_records_are_that_many_of_that_client() -> None:
    settings = ("deletion.scope=records", "deletion.count=9", "deletion.client=clinic-02")
    scenario = build_scenario(configured("breast-cancer-silos", *settings))
    assert {name: int(mask.sum()) for name, mask in marked(scenario).items() if mask.any()} == {"clinic-02": 9}


def test_more_records_than_the_client_has_are_refused() -> None:
    build_scenario(configured("breast-cancer-silos", "deletion.count=75"))
    with pytest.raises(ConfigError, match="expected at most 75, the records that clinic-05 has") as caught:
        build_scenario(configured("breast-cancer-silos", "deletion.count=76"))
    assert caught.value.argument == "deletion.count"


def test_more_training_records_than_there_are_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at most 1437") as caught:
        build_scenario(configured("digits-silos", "data.records=1438"))
    assert caught.value.argument == "data.records"


@pytest.mark.parametrize("scope", ["client", "records", "group"])
def test_an_unknown_client_is_refused(scope: str) -> None:
    settings = (f"deletion.scope={scope}", "deletion.count=1", 'deletion.groups=["a"]', "deletion.client=silo-10")
    with pytest.raises(ConfigError, match="one of silo-00 to silo-09") as caught:
        build_scenario(configured("digits-silos", *settings))
    assert caught.value.argument == "deletion.client"


def test_groups_are_asked_of_data_that_has_them_only() -> None:
    with pytest.raises(ConfigError, match="no group column") as caught:
        build_scenario(configured("digits-silos", "deletion.scope=group", 'deletion.groups=["a"]'))
    assert caught.value.argument == "deletion.scope"
    with pytest.raises(ConfigError, match="no group column") as caught:
        build_scenario(configured("digits-silos", "training.unit=group"))
    assert caught.value.argument == "training.unit"
    with pytest.raises(DataError, match="no groups"):
        build_scenario(configured("digits-silos", "data.partition=group"))


def persons(path: Path, clients: int = 3, count: int = 60) -> Path:
    """Three records a person, by the twenties of the alphabet of integers."""
    generator = np.random.default_rng(0)
    np.savez(
        path,
        features=generator.normal(size=(count, 4)).astype(np.float32),
        labels=generator.integers(0, 2, size=count),
        groups=np.array([f"p{i // clients:02d}" for i in range(count)]),
    )
    return path


def test_a_person_is_found_wherever_its_records_are(tmp_path: Path) -> None:
    file = persons(tmp_path / "persons.npz")
    data = {"source": "npz", "path": str(file)}
    training = build_scenario(small(data)).clients
    present = sorted({group for records in training.values() for group in records.groups.tolist()})
    request = {"scope": "group", "groups": present[:2]}
    scenario = build_scenario(small(data, deletion=request))
    for name, mask in marked(scenario).items():
        np.testing.assert_array_equal(mask, np.isin(scenario.clients[name].groups, present[:2]))
    assert sum(int(mask.sum()) for mask in marked(scenario).values()) == 6


def test_an_unknown_person_is_refused_without_naming_others(tmp_path: Path) -> None:
    file = persons(tmp_path / "persons.npz")
    config = small({"source": "npz", "path": str(file)}, deletion={"scope": "group", "groups": ["nobody"]})
    with pytest.raises(ConfigError) as caught:
        build_scenario(config)
    assert caught.value.argument == "deletion.groups"
    assert "'nobody'" in str(caught.value)
    assert "p0" not in str(caught.value)


def test_persons_stay_whole_in_the_group_partition(tmp_path: Path) -> None:
    file = persons(tmp_path / "persons.npz")
    scenario = build_scenario(small({"source": "npz", "path": str(file), "partition": "group"}))
    homes = [set(records.groups.tolist()) for records in scenario.clients.values()]
    assert all(homes)
    assert sum(map(len, homes)) == len(set.union(*homes))


# Data that is not there, or broken


@pytest.mark.parametrize("source", ["idx", "csv", "npz"])
def test_data_that_nobody_pointed_to_is_asked_for(source: str) -> None:
    with pytest.raises(ConfigError, match="--data-dir") as caught:
        build_scenario(small({"source": source}))
    assert caught.value.argument == "data.path"


@pytest.mark.parametrize("source", ["idx", "csv", "npz"])
def test_data_that_is_not_there_is_named(source: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="absent"):
        build_scenario(small({"source": source}), data_dir=tmp_path / "absent")


@pytest.mark.parametrize("source", ["csv", "npz"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"\xff\xfe,\n", b"PK\x03\x04 and nothing more"])
def test_a_corrupt_file_is_named(source: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "records.data"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"records\.data"):
        build_scenario(small({"source": source}), data_dir=file)


def images(folder: Path, count: int = 30) -> Path:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for part in ("train", "t10k"):
        pixels, labels = generator.integers(0, 256, (count, 4, 4)), np.arange(count) % 3
        header = struct.pack(">4B3I", 0, 0, 8, 3, count, 4, 4)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.astype(np.uint8).tobytes())
        header = struct.pack(">4BI", 0, 0, 8, 1, count)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.astype(np.uint8).tobytes())
    return folder


def test_a_folder_of_images_is_read_and_the_option_beats_the_path(tmp_path: Path) -> None:
    folder = images(tmp_path / "tiny")
    scenario = build_scenario(small({"source": "idx", "path": str(tmp_path / "absent")}), data_dir=folder)
    assert (scenario.classes, len(scenario.test), scenario.clients["silo-00"].shape) == (3, 30, (1, 4, 4))


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("keep", [0, 6, 20])
def test_truncated_images_are_named(name: str, keep: int, tmp_path: Path) -> None:
    file = images(tmp_path / "tiny") / name
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=name):
        build_scenario(small({"source": "idx"}), data_dir=file.parent)


def test_a_truncated_archive_is_named(tmp_path: Path) -> None:
    file = persons(tmp_path / "persons.npz")
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"persons\.npz"):
        build_scenario(small({"source": "npz"}), data_dir=file)


def test_a_table_with_a_broken_number_is_named_by_line_and_column(tmp_path: Path) -> None:
    file = tmp_path / "visits.csv"
    file.write_text("a,b,label\n1,2,0\n1,secret,1\n")
    with pytest.raises(DataError, match="line 3, column 'b'") as caught:
        build_scenario(small({"source": "csv"}), data_dir=file)
    assert "secret" not in str(caught.value)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    file = tmp_path / "visits.csv"
    file.write_text("a,b,label\n1,2,0\n")
    with pytest.raises(DataError, match="no column 'person'"):
        build_scenario(small({"source": "csv", "group_column": "person"}), data_dir=file)


@pytest.mark.parametrize("partition", ["iid", "dirichlet", "label"])
def test_no_silo_is_left_empty(partition: str) -> None:
    with pytest.raises(DataError, match="cannot fill"):
        build_scenario(configured("digits-silos", f"data.partition={partition}", "data.records=9"))
    scenario = build_scenario(configured("digits-silos", "data.partition=dirichlet", "data.alpha=0.01"))
    assert all(len(records) > 0 for records in scenario.clients.values())


def test_fewer_persons_than_clients_are_refused(tmp_path: Path) -> None:
    file = persons(tmp_path / "persons.npz", count=6)
    with pytest.raises(DataError, match=r"\d groups? cannot fill 3 clients"):
        build_scenario(small({"source": "npz", "partition": "group"}), data_dir=file)


@pytest.mark.parametrize("seed", [2**63, 2**70])
def test_a_seed_beyond_the_generators_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=f"seed is {seed}"):
        build_scenario(configured("digits-silos", f"seed={seed}"))
