"""A claims.yaml becomes claims, or the list of its faults, each with file, line and column."""

import pytest
import yaml

from harness.claims import judge, reading
from harness.claims.arms import arm
from harness.claims.comparison import NOT_TESTED
from harness.claims.machines import OTHER_ENCODES, SPEED, SideBySide
from harness.claims.places import Distances
from harness.claims.predicates import Best, Lower
from harness.claims.schema import ASKS
from harness.papers import claims as papers
from harness.recipes.located import Faulty
from harness.records.evidence import Evidence

GOOD = """\
numbers:
  SD-DiT: {value: 48.39, table: SD-DiT Tab.1, model: SD-DiT-S/2}
  DiT: {value: 68.4, table: SD-DiT Tab.1, model: DiT-S/2}
arms:
  masked: {method: sddit, knobs: {mask_ratio: 0.9}}
claims:
  - id: lower-than-dit
    place: Table 1
    statement: SD-DiT has a lower FID than DiT.
    at: {size: s, steps: 400_000}
    asks:
      - {predicate: lower, arms: [sddit, dit], published: [SD-DiT, DiT]}
      - {predicate: lower, arms: [masked, dit]}
    command: harness sweep figure3
"""


def faults(old: str = "", new: str = "", text: str = GOOD) -> list[str]:
    """What is said of GOOD with one part replaced; the file's name left out."""
    assert old in text
    with pytest.raises(Faulty) as error:
        reading.read(text.replace(old, new, 1), "mine/claims.yaml")
    said = str(error.value).splitlines()
    assert all(line.startswith("mine/claims.yaml:") for line in said)
    return [line.removeprefix("mine/claims.yaml:") for line in said]


def test_a_file_becomes_claims_with_its_numbers_and_the_words_for_them():
    (entry,) = reading.read(GOOD, "claims.yaml").entries
    assert entry.claim.published == "SD-DiT 48.39, DiT 68.4"
    assert (entry.numbers, entry.line) == (("SD-DiT", "DiT"), 7)
    test = entry.claim.test
    assert isinstance(test, Distances)
    masked = arm("sddit", mask_ratio=0.9)
    assert test.predicates == (Lower(arm("sddit"), arm("dit"), (48.39, 68.4)), Lower(masked, arm("dit")))
    assert (test.size, test.steps, test.batch, test.paper_only) == ("s", 400_000, 256, False)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("place: Table 1", "plaec: Table 1", "8:5: no field of a claim is called 'plaec'. Did you mean place?"),
        ("    place: Table 1\n", "", "7:5: a claim has no 'place': where the paper says it"),
        ("claims:\n", "claim:\n", "6:1: no field of a claims.yaml is called 'claim'. Did you mean claims?"),
        ("predicate: lower", "predicate: lowr", "12:21: no predicate is called 'lowr'. Did you mean lower?"),
        ("predicate: lower, ", "", "12:9: an ask needs a predicate"),
        ("arms: [sddit, dit]", "arms: [sddit, dti]", "12:42: no arm or method is called 'dti'. Did you mean "),
        ("arms: [sddit, dit]", "arms: [sddit]", "12:34: arms of the predicate lower has too few entries: 2 are"),
        ("arms: [sddit, dit]", "arms: sddit", "12:34: arms of the predicate lower is 'sddit'; it must be"),
        ("method: sddit", "method: sdit", "5:20: no method is called 'sdit'"),
        ("mask_ratio: 0.9", "mask_ration: 0.9", "5:35: no knob of sddit is called 'mask_ration'. Did you mean mask"),
        ("published: [SD-DiT, DiT]", "published: [SD-DiT, DIT]", "12:68: no number is called 'DIT'"),
        ("value: 48.39", "value: many", "2:19: value of numbers: SD-DiT is 'many'; it must be a number"),
        ("value: 48.39, ", "", "2:11: numbers: SD-DiT has no 'value': the number as the row has it"),
        ("model: DiT-S/2", "modle: DiT-S/2", "3:43: no field of numbers: DiT is called 'modle'. Did you mean model or"),
        ("steps: 400_000", "steps: few", "10:26: at.steps of a claim is 'few'; it must be a whole number"),
        ("steps: 400_000", "stesp: 400_000", "10:19: no field of a claim is called 'stesp'"),
        ("{size: s, steps: 400_000}", "{size: s}", "10:5: at has no 'steps'"),
        ("    at: {size: s, steps: 400_000}\n", "", "7:5: a claim has no 'at'"),
        ("size: s", "size: h", "10:16: there is no recipe sddit-h"),
        ("id: lower-than-dit", "id: Lower than DiT", "7:9: id of a claim is 'Lower than DiT'; it must"),
        ("command: harness", "command: python", "14:5: the command is 'python sweep figure3'; it must begin with"),
        ("    command: harness sweep figure3\n", "", "7:5: a claim has no 'command'"),
        ("    command:", "    untested: no GPU\n    command:", "11:5: the claim is untested and has 'asks' too"),
        ("    asks:", "    yardstick: parameters\n    asks:", "13:21: lower cannot be asked of parameters; that takes"),
        ("arms: [masked, dit]", "arms: [sddit, dit]", "5:3: no claim uses 'masked'. Remove it"),
        (", published: [SD-DiT, DiT]", ", published: [DiT, DiT]", "2:3: no claim uses 'SD-DiT'. Remove it"),
        ("    place: Table 1\n", "    place: Table 1\n    place: Table 2\n", "9:5: the name 'place' stands here"),
        ("value: 48.39", "value: 2024-03-26", "2:19: this is a timestamp, not a text or a number. Put it in quotes"),
        ("  DiT: {", "  3: {", "3:3: the name '3' is no text. Put it in quotes"),
        ("arms: [sddit, dit]", "arms: [sddit, dit", "12:71: this is no YAML: "),
        ("place: Table 1", "place: Table \x07", "8:18: this letter, "),
        ("place: Table 1", "place: 1", "8:12: place of a claim is 1; it must be a text"),
        ("claims:\n", "claims: []\nolder:\n", "6:9: claims of a claims.yaml is []; it must"),
        (GOOD, "- a list", "1:1: a claims.yaml is ['a list']; it must be a mapping"),
        (GOOD, "", "1:1: a claims.yaml is None; it must be a mapping"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_line_and_column(old, new, said):
    found = faults(old, new)
    assert any(each.startswith(said) for each in found), found


SPEEDS = """\
claims:
  - id: faster
    place: Fig. 3
    statement: SD-DiT takes more steps a second than DiT and MDT.
    yardstick: speed
    at: {size: s}
    asks:
      - {predicate: faster, arms: [sddit, dit], encoding: true}
      - {predicate: faster, arms: [sddit, mdt], encoding: true}
    command: harness bench dit-s mdt-s sddit-s
"""
COUNTED = """\
numbers:
  ours: {value: 740.6, table: SD-DiT App.A, model: SD-DiT-XL/2, metric: params_M}
claims:
  - id: counted
    place: App. A
    statement: SD-DiT-XL/2 has the printed number of parameters.
    yardstick: parameters
    asks:
      - {predicate: equal, published: {sddit-xl: ours}}
    command: harness recipes count
"""


def test_faults_of_speeds_and_counts_are_told_too():
    (entry,) = reading.read(SPEEDS, "").entries
    pairs = ((arm("sddit"), arm("dit"), None), (arm("sddit"), arm("mdt"), None))
    assert entry.claim.test == SideBySide(SPEED, "s", pairs, OTHER_ENCODES)
    assert entry.claim.published == ""
    assert faults(", encoding: true", "", SPEEDS) == [
        "7:5: the asks of one claim of speed or memory must be alike, encoding included. Make them two claims."
    ]
    assert faults("sddit-xl:", "sddit-xxl:", COUNTED)[0].startswith("9:40: no recipe is called 'sddit-xxl'")


def test_two_claims_of_one_id_are_told_at_the_second():
    claim = GOOD.split("claims:\n")[1]
    assert faults(text=GOOD + claim) == ["15:5: the claim of line 7 has the id 'lower-than-dit' too. Choose another."]


def test_arms_of_one_method_name_the_same_knobs_beside_those_that_ablations_vary():
    """Two runs of one method are paired where all other knobs are equal."""
    text = GOOD.replace("mask_ratio: 0.9}}", "mask_ratio: 0.9, num_prototypes: 64}}").replace(
        "[masked, dit]", "[masked, sddit]"
    )
    assert faults(text=text) == ["13:34: one arm names num_prototypes and the other does not. Give both a value of it."]


def test_every_fault_is_told_at_once_in_the_order_of_the_lines():
    said = faults("48.39", "many", GOOD.replace("lower, arms: [masked", "lowest, arms: [masked"))
    assert [line.split(":")[0] for line in said] == ["2", "13"]


def test_a_claim_that_no_runs_can_test_says_why_and_keeps_its_numbers():
    text = GOOD.partition("    at:")[0] + "    untested: no encoder of that kind here\n    published: [SD-DiT, DiT]\n"
    text = text.replace("arms:\n  masked: {method: sddit, knobs: {mask_ratio: 0.9}}\n", "")
    (entry,) = reading.read(text, "").entries
    (judgement,) = judge([entry.claim], Evidence())
    assert (judgement.verdict, judgement.missing) == (NOT_TESTED, ("no encoder of that kind here",))
    assert judgement.published == "SD-DiT 48.39, DiT 68.4"


def test_what_is_read_and_written_again_is_read_as_the_same_claims():
    for paper in papers.names():
        found = papers.read(paper)
        again = reading.read(yaml.safe_dump(found.source.value, sort_keys=False, allow_unicode=True), "again")
        assert again.numbers == found.numbers
        assert [entry.said for entry in again.entries] == [entry.said for entry in found.entries]
        assert [entry.claim.published for entry in again.entries] == [entry.claim.published for entry in found.entries]


def test_the_claims_of_sd_dit_ask_every_kind_of_predicate():
    asked = {ask["predicate"] for entry in papers.read("sddit").entries for ask in entry.said.asks}
    assert asked == set(ASKS)
    best = {entry.said.id: entry.claim.test for entry in papers.read("sddit").entries}["best-mask-ratio"]
    published = {0.0: 58.92, 0.2: 48.39, 0.5: 53.72, 0.9: 61.0}
    values = (0.0, 0.3, 0.5, 0.7, 0.9)
    assert best.predicates == (Best(arm("sddit", mask_ratio=0.2), "mask_ratio", values, published),)
