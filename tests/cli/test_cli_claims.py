import json

from command_line import answer, invoke


def test_list_names_every_claim_of_a_paper_and_show_tells_one():
    listed = json.loads(answer("claims", "list", "--paper", "sddit", "--json"))["claims"]
    assert {"paper": "sddit", "id": "fid-order-b", "place": "Table 1; Sec. 4.3"} in listed
    told = answer("claims", "show", "no-inference-overhead")
    assert "true by construction: both arms carry" in told
    assert "Zhu et al. 2024, arXiv:2403.17004" in told


def test_check_passes_over_all_papers_and_tells_every_fault_by_line_and_column(tmp_path):
    assert answer("claims", "check").endswith("No fault.\n")
    file = tmp_path / "claims.yaml"
    file.write_text("claims:\n  - id: a-claim\n")
    found = invoke("claims", "check", file)
    assert found.exit_code == 4
    assert f"{file}:2:5: a claim has no 'place'" in found.stderr
    assert f"{file}:2:5: a claim has no 'statement'" in found.stderr


def test_a_file_that_is_not_there_is_told():
    found = invoke("claims", "check", "nowhere/claims.yaml")
    assert found.exit_code == 4
    assert "nowhere/claims.yaml is no file" in found.stderr


def test_register_names_the_runs_that_run_makes_and_registered_tells_how_many_are_finished(tmp_path):
    arms = ["dit-tiny:steps=20", "dit-tiny:steps=20:learning_rate=0.002"]
    said = ["--expect", "lower", "--why", "A lower rate is better.", "--name", "a-rate", "--seeds", "0,3"]
    made = json.loads(answer("claims", "register", *arms, *said, "--out", tmp_path, "--json"))
    written = json.loads((tmp_path / "registered" / "a-rate.json").read_text())
    assert written["sha256"] == made["sha256"]
    assert made["runs"][2] == "harness run dit-tiny --seed 0 --set steps=20 --set learning_rate=0.002"
    planned = json.loads(answer(*made["runs"][3].split()[1:], "--dry-run", "--json"))
    assert written["second"]["runs"][1] == f"dit-tiny/{planned['run_id']}"
    told = answer("claims", "registered", tmp_path)
    assert "a-rate: not tested" in told
    assert "A lower rate is better. Expected: lower. Found: 0 of 4 runs are finished." in " ".join(told.split())


def test_a_registration_that_no_run_could_decide_is_refused(tmp_path):
    arms = ["dit-tiny", "sddit-tiny", "--why", "w", "--out", str(tmp_path)]
    for more, words in (
        (["--expect", "lower", "--name", "A b"], "--name is 'A b'"),
        (["--expect", "equal", "--name", "a"], "--within belongs to --expect equal"),
        (["--expect", "lower", "--name", "a", "--seeds", "0,0"], "--seeds is '0,0'"),
        (["--expect", "lower", "--name", "a", "--yardstick", "recall"], "recall"),
    ):
        found = invoke("claims", "register", *arms, *more)
        assert found.exit_code == 2, more
        assert words in " ".join(found.stderr.split())
    assert not list(tmp_path.iterdir())
