"""The published results: what is handed out, and what is refused."""

import pytest

from mer.errors import FileError
from mer.evaluation import published
from tests.helpers.refusals import refused


def test_every_record_says_something_of_one_of_four_papers():
    records = published.read()
    assert {record.paper for record in records} == {"uamrn", "msmmt", "micronbert", "dcma"}
    assert all(r.metrics or r.p_values or r.cost or r.hyperparameters for r in records)
    assert all(record.part in published.PARTS for record in records if record.part is not None)


def test_a_table_is_handed_out_in_its_order():
    found = published.records("dcma", "Table 5")
    assert len(found) == 12
    assert (found[0].method, found[-1].method_id, found[-1].ours) == ("Bi-WOOF [11]", "dcma", True)
    assert found[-1].metrics == {"acc": 0.9374, "uf1": 0.9213, "uar": 0.9167}


def test_the_printed_accuracies_are_those_of_the_class_counts():
    """Fidelity 4.8: the full model has 142 of 150, 119 of 132, 158 of 165 right, which add up to 419 of 447."""
    rows = [*published.records("dcma", "Table 5"), *published.records("dcma", "Table 6")]
    printed = {row.part: row.metrics["acc"] for row in rows if row.ours}
    right = {"full": 419 / 447, "casme2": 142 / 150, "samm": 119 / 132, "smic_hs": 158 / 165}
    assert printed == {part: pytest.approx(value, abs=5.1e-5) for part, value in right.items()}  # four digits


@pytest.mark.parametrize(
    ("dataset", "clips", "right"),
    [("casme2", 247, {195, 194, 199}), ("samm", 136, {104, 105, 108}), ("smic_hs", 164, {127, 122, 128})],
)
def test_uamrns_accuracies_are_pooled_over_clips(dataset, clips, right):
    """Every accuracy of UAMRN's Tables 2 to 6 is a share of all clips, so none is a mean over subjects (U-17, U-18).

    246 clips, as the sheet of CASME II has, give none of the three of that corpus.
    """
    printed = {r.metrics["acc"] for r in published.records("uamrn") if r.ours and r.dataset == dataset}
    assert {round(k / clips, 4) for k in right} == printed
    if dataset == "casme2":
        assert not printed & {round(k / 246, 4) for k in range(247)}


def test_dcma_prints_22_p_values_of_methods_with_scores():
    tests, scores = published.printed_tests("dcma"), published.composite_scores("dcma")
    assert sum(len(row.p_values) for row in tests) == 22
    assert set(scores) == {"dcma", *(row.method_id for row in tests)}
    assert scores["dcma"]["uar"] == [0.9167, 0.9174, 0.8415, 0.9512]


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        (published.records, ("dcam",), "no published results of 'dcam'; did you mean 'dcma'"),
        (published.records, ("dcma", "Table 55"), "no published results of 'Table 55' of dcma; did you mean 'Table 5'"),
        (published.printed_tests, ("msmmt",), "no printed p-values of 'msmmt'; valid names: dcma"),
        (published.composite_scores, ("nobody",), "no printed p-values of 'nobody'; valid names: dcma"),
    ],
)
def test_what_is_not_published_is_refused(function, arguments, message):
    refused(message, function, *arguments)


def without(row):
    return row.model_copy(update={"metrics": {}})


def test_a_value_that_is_absent_or_of_two_kinds_is_refused(monkeypatch):
    rows = published.read()
    (row,) = (r for r in published.records("dcma", "Table 6") if (r.method_id, r.part) == ("emr", "samm"))
    other = row.model_copy(update={"metrics": row.metrics | {"uf1": 0.7}})
    for changed in ([r for r in rows if r != row], [*rows, other], [r if r != row else without(r) for r in rows]):
        monkeypatch.setattr(published, "_records", lambda changed=changed: changed)
        refused("dcma has no single uf1 of emr on samm; restore it", published.composite_scores, "dcma")


GOOD = """
- {paper: p, table: t, dataset: d, protocol: sde, classes: 3, method: m, method_id: m, ours: false, metrics: {uf1: 0.5},
   source: table}
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "x.yaml: record the file: input should be a valid list; restore it"),
        (GOOD.replace("0.5", "50.0"), "x.yaml: record 0.metrics.uf1: input should be less than or equal to 1; restore"),
        (GOOD.replace("0.5", ".nan"), r"x.yaml: record 0.metrics.uf1: input should be"),
        (GOOD.replace("classes: 3, ", ""), "x.yaml: record 0.classes: field required; restore it"),
        (GOOD.replace("ours", "our"), "x.yaml: record 0.ours: field required; restore it"),
        (GOOD.replace("source", "sources: x, source"), "x.yaml: record 0.sources: extra inputs are not permitted"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(GOOD)
    assert published.read(tmp_path / "x.yaml")[0].metrics == {"uf1": 0.5}
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(FileError):
        published.read(tmp_path / "x.yaml")
    refused(message, published.read, tmp_path / "x.yaml")
    refused("y.yaml: there is no such file here; restore it", published.read, tmp_path / "y.yaml")


def test_the_file_is_shipped_with_the_package(root):
    import tomllib

    data = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    folder = published.PATH.parent
    assert published.PATH in [path for pattern in data["mer.evaluation"] for path in folder.glob(pattern)]
