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
