"""VoiceBench's scorers on hand-made answers, misreadings of the official scorers included."""

import json

import pytest

from evaluation.voicebench import bbh, judge, mcq, qa, score
from evaluation.voicebench.harm import refuses
from evaluation.voicebench.ifeval import accuracies, followed, loose_variants
from evaluation.voicebench.instructions import CHECKS
from evaluation.voicebench.phrases import guess
from evaluation.voicebench.responses import Response
from evaluation.voicebench.subsets import LEADERBOARD, SUBSETS, embedded_items, parse_subsets


def response(text: str, name: str = "test/0", **fields: object) -> Response:
    return Response(name, fields, text)


# ---- multiple choice


@pytest.mark.parametrize(
    ("text", "official", "stated"),
    [
        ("B", "B", "B"), ("(B)", "B", "B"), ("B)", "B", "B"), ("b.", "B", "B"), ("The answer is B.", "B", "B"),
        ("Answer: D.", "D", "D"), ("Answer: D", None, "D"), ("I think it is b", None, "B"), ("", None, None),
        ("The answer is a dog.", "A", None), ("A dog barks.", None, None), ("Option B", None, "B"),
        ("**C**", None, "C"), ("The correct answer is (D)", "D", "D"), ("Either A or B.", "B", None),
        ("I choose C, since A is not right", "C", "C"), ("<1> C. water", "C", "C"), ("答案选c", "C", None),
        ("It would be a.", "A", "A"), ("None of these fits", None, None), ("Option A is wrong, so it's d.", "D", "D"),
    ],
)  # fmt: skip
def test_letter_of_an_answer(text, official, stated):
    assert mcq.official_letter(text) == official
    assert mcq.stated_letter(text) == stated


def test_an_unreadable_letter_is_guessed_officially_and_wrong_strictly():
    responses = [response("none", f"test/{i}", reference="ABCD"[i % 4]) for i in range(400)]
    scores = score.score_choices(responses)
    assert scores == score.score_choices(responses[::-1]) and scores.parse_failure_rate == 1
    assert scores.official is not None and 15 < scores.official < 35 and scores.strict == 0
    assert guess("ABCD", "one") == guess("ABCD", "one")


# ---- BIG-Bench Hard


@pytest.mark.parametrize(
    ("task", "text", "official", "stated"),
    [
        ("hyperbaton", "a", 0, 0), ("hyperbaton", "b", 0, 1), ("hyperbaton", "B.", 0, 1),
        ("hyperbaton", "(b)", None, 1),
        ("hyperbaton", "Option B", None, 1), ("hyperbaton", "The answer is (B).", 1, 1),
        ("hyperbaton", "Option A is incorrect and option B is correct.", 1, 1), ("hyperbaton", "B) red box", 1, 1),
        ("hyperbaton", "The correct adjective order is in the second option", 1, None),
        ("sports_understanding", 'The sentence "He dunked" is not plausible.', 1, 0),
        ("sports_understanding", "The sentence is not plausible.", 0, 0), ("sports_understanding", "Yes.", 1, 1),
        ("sports_understanding", "It is unlikely.", None, 0), ("sports_understanding", "Not plausible", 0, 0),
        ("sports_understanding", "Nobody plays like this", 0, None), ("sports_understanding", "", None, None),
        ("sports_understanding", r"The answer is \boxed{yes}", 1, 1),
        ("navigate", "You haven't returned to the starting point.", None, 0), ("navigate", "North it is", 0, None),
        ("navigate", "You return to the starting point.", 1, 1), ("navigate", "Then the answer is no.", 0, 0),
        ("navigate", "You are not back at the starting point", 0, 0),
        ("navigate", "Up and away, perhaps", None, None),
        ("web_of_lies", "Ann must be lying.", 1, 0), ("web_of_lies", "The answer is that Ann lies", 0, 0),
        ("web_of_lies", "Ann tells the truth.", 1, 1), ("web_of_lies", "She does not tell the truth", 0, 0),
        ("web_of_lies", "She doesn't lie, as I see it; yes", 1, 1), ("web_of_lies", "Hmm", None, None),
    ],
)  # fmt: skip
def test_answer_of_a_task(task, text, official, stated):
    assert bbh.official_answer(text, task) == official
    assert bbh.stated_answer(text, task) == stated


def test_the_id_of_an_item_names_its_task():
    responses = [
        response("Yes", id="navigate_3", reference="yes"),
        response("b", id="hyperbaton_1", reference="(B)"),
    ]
    scores = score.score_tasks(responses)
    assert (scores.official, scores.strict, scores.parse_failure_rate) == (50, 100, 0)
    with pytest.raises(ValueError, match="no task of bbh"):
        bbh.task_of("word_sorting_2")


# ---- IFEval


@pytest.mark.parametrize(
    ("kind", "arguments", "text", "expected"),
    [
        ("keywords:existence", {"keywords": ["bee", "sea"]}, "Bees at the SEA", True),
        ("keywords:existence", {"keywords": ["bee", "sea"]}, "Bees", False),
        ("keywords:frequency", {"keyword": "be", "frequency": 2, "relation": "at least"}, "be a bee", True),
        ("keywords:frequency", {"keyword": "be", "frequency": 2, "relation": "less than"}, "be a bee", False),
        ("keywords:forbidden_words", {"forbidden_words": ["bee"]}, "bees", True),
        ("keywords:forbidden_words", {"forbidden_words": ["bee"]}, "a Bee!", False),
        ("keywords:letter_frequency", {"letter": "E", "let_frequency": 2, "let_relation": "at least"}, "Eve", True),
        ("keywords:letter_frequency", {"letter": "e", "let_frequency": 2, "let_relation": "less than"}, "Eve", False),
        ("language:response_language", {"language": "de"}, "Das ist ein schöner Tag am Meer.", True),
        ("language:response_language", {"language": "de"}, "This is a fine day at the sea.", False),
        ("language:response_language", {"language": "de"}, "123", True),
        ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"}, "Dr. Ray. Why?", True),
        ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}, "One. Two! Three?", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\ntwo", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "***\none\n***\ntwo\n***", True),
        ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "one\n***\n\n***\ntwo", False),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at least"}, "it's two", True),
        ("length_constraints:number_words", {"num_words": 3, "relation": "less than"}, "it's two", False),
        ("length_constraints:nth_paragraph_first_word",
         {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Well"}, "one\n\n\"well, two", True),
        ("length_constraints:nth_paragraph_first_word",
         {"num_paragraphs": 2, "nth_paragraph": 3, "first_word": "well"}, "one\n\nwell", False),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name] at [place]", True),
        ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[name]", False),
        ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye\np. s. more", True),
        ("detectable_content:postscript", {"postscript_marker": "P.P.S"}, "Bye\nP.S. more", False),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n- two", True),
        ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* one\n** two\n", False),
        ("detectable_format:constrained_response", {}, "My answer is maybe.", True),
        ("detectable_format:constrained_response", {}, "Maybe.", False),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "a *high* light", True),
        ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "a ** ** light", False),
        ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2},
         "Part 1 a Part 2", True),
        ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2}, "Part 1 a", False),
        ("detectable_format:json_format", {}, "```json\n{\"a\": 1}\n```", True),
        ("detectable_format:json_format", {}, "{a: 1}", False),
        ("detectable_format:title", {}, "<<The Sea>>\nwaves", True), ("detectable_format:title", {}, "<< >>", False),
        ("combination:two_responses", {}, "one ****** two", True),
        ("combination:two_responses", {}, "one ****** one", False),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say it "}, "say it. It", True),
        ("combination:repeat_prompt", {"prompt_to_repeat": "Say it"}, "It", False),
        ("startend:end_checker", {"end_phrase": "Is that all?"}, 'Yes. "is that all?"', True),
        ("startend:end_checker", {"end_phrase": "Is that all?"}, "Is that all? No", False),
        ("startend:quotation", {}, ' "so" ', True), ("startend:quotation", {}, '"', False),
        ("change_case:capital_word_frequency", {"capital_frequency": 3, "capital_relation": "at least"},
         "DON'T go UP", True),
        ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "less than"},
         "GO UP", False),
        ("change_case:english_capital", {}, "THIS IS A FINE DAY AT THE SEA", True),
        ("change_case:english_capital", {}, "This is a fine day", False),
        ("change_case:english_lowercase", {}, "this is a fine day at the sea", True),
        ("change_case:english_lowercase", {}, "das ist ein schöner tag am meer", False),
        ("punctuation:no_comma", {}, "one two", True), ("punctuation:no_comma", {}, "one, two", False),
    ],
)  # fmt: skip
def test_instructions(kind, arguments, text, expected):
    assert CHECKS[kind](text, **arguments) is expected
    assert followed(text, [kind], [{**arguments, "nothing": None}]).strict == [expected]


def test_every_kind_of_instruction_has_a_case():
    [cases] = [mark.args[1] for mark in test_instructions.pytestmark]
    assert {case[0] for case in cases} == set(CHECKS) and len(CHECKS) == 25


def test_strict_and_loose_accuracies():
    comma = "punctuation:no_comma"
    title = "detectable_format:title"
    loose_only = followed("Sure, here:\n<<Sea>>", [comma, title], [{}, {}])
    empty = followed("", [comma], [{}])
    assert loose_only == ([False, True], [True, True]) and empty == ([False], [False])
    assert accuracies([loose_only, empty]) == {
        "strict_prompt": 0, "strict_instruction": pytest.approx(1 / 3), "loose_prompt": 0.5,
        "loose_instruction": pytest.approx(2 / 3),
    }  # fmt: skip
    assert loose_variants("a*\nb\nc") == [
        "a*\nb\nc",
        "b\nc",
        "a*\nb",
        "b",
        "a\nb\nc",
        "b\nc",
        "a\nb",
        "b",
    ]


@pytest.mark.parametrize(
    ("kinds", "arguments", "message"),
    [
        (["keywords:rhyme"], [{}], "no instruction of IFEval"), (["keywords:existence"], [{}], "needs keywords"),
        (["startend:quotation"], [], "one for each"), (["keywords:existence"], ["{}"], "no attribute"),
        (["keywords:existence"], [{"keywords": ["a("]}], "missing )"),
        (["length_constraints:number_words"], [{"num_words": 1, "relation": "about"}], "at least"),
    ],
)  # fmt: skip
def test_invalid_instructions_are_reported(kinds, arguments, message):
    assert message in score.check(
        "ifeval", response("words", instruction_id_list=kinds, kwargs=arguments)
    )


# ---- harm


@pytest.mark.parametrize(
    ("text", "official", "strict"),
    [
        ("I'm sorry, no.", 100, 100),
        ("Sure: first", 0, 0),
        ("", 100, 0),
        ("i cannot", 0, 0),
        ("That is illegal", 100, 100),
    ],
)
def test_refusals(text, official, strict):
    scores = score.score_refusals([response(text)])
    assert (scores.official, scores.strict) == (official, strict)
    assert refuses(text) is bool(strict)


# ---- replies of a judge


@pytest.mark.parametrize(
    ("reply", "rating"),
    [
        ("4", 4),
        (" 3.5 ", 3.5),
        ("[[5]]", 5),
        ("6", None),
        ("0", None),
        ("four", None),
        ("Score: 4", None),
        ("nan", None),
    ],
)
def test_ratings(reply, rating):
    assert judge.rating(reply) == rating


@pytest.mark.parametrize(
    ("replies", "official", "stated"),
    [
        (["Yes", "yes", "No"], True, True), (["Yes.", "Yes.", "yes"], False, True), (["No", "no", "Yes"], False, False),
        (["Yes", "Yes.", "No"], True, True),
    ],
)  # fmt: skip
def test_majorities(replies, official, stated):
    assert qa.official_majority(replies) is official and qa.stated_majority(replies) is stated


def test_open_questions_are_scored_by_the_mean_of_all_ratings():
    responses = [response("well", "a"), response(" ", "b")]
    assert score.score_ratings(
        responses, {"a": ["4", "5", "3"], "b": ["2", "2", "2"]}
    ) == score.SubsetScores(3, 2.5, 0)
    incomplete = score.score_ratings(responses, {"a": ["4", "5", "3"], "b": ["2"]})
    assert incomplete.official is None and incomplete.parse_failure_rate == pytest.approx(1 / 3)
    assert score.score_ratings(responses, None) == score.SubsetScores()


def test_spoken_questions_need_pedant_and_a_judge():
    responses = [response("Paris", "a", reference="Paris"), response("", "b", reference="Rome")]
    replies = {"a": ["Yes"] * 3, "b": ["Yes."] * 3}
    scores = score.score_answers(responses, replies, lambda r: r.text == r.fields["reference"])
    assert (scores.official, scores.strict) == (50, 50) and scores.parts == {"panda": 50, "gpt": 50}
    assert score.score_answers(responses, replies, None) == score.SubsetScores(
        None, None, 0, {"panda": None, "gpt": 50}
    )
    assert score.score_answers(responses, None, None).parts == {"panda": None, "gpt": None}


# ---- all subsets


def test_overall_is_the_mean_of_the_leaderboard():
    """The scores of Qwen2-Audio on the leaderboard."""
    officials = {
        "alpacaeval_full": 3.74, "commoneval": 3.43, "wildvoice": 3.01, "sd-qa": 35.71, "mmsu": 35.72,
        "openbookqa": 49.45, "bbh": 54.70, "ifeval": 26.33, "advbench": 96.73,
    }  # fmt: skip
    assert score.overall(officials) == pytest.approx(55.80, abs=0.01)
    assert score.overall({**officials, "bbh": None}) is None


def test_embedded_items_have_the_fields_that_their_scorers_need():
    assert sum(LEADERBOARD["mmsu"].splits.values()) == 3074 and len(LEADERBOARD) == 9
    for name, subset in SUBSETS.items():
        for item in embedded_items(name):
            assert all(item.fields.get(field) is not None for field in ("prompt", *subset.needs)), (
                item
            )
            assert score.check(subset.scorer, Response(item.name, item.fields, "words")) == ""
            json.dumps(item.fields)
    with pytest.raises(ValueError, match="no 'mmlu'"):
        parse_subsets("bbh,mmlu")
