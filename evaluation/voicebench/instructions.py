"""The 25 kinds of instruction of IFEval, each a check of an answer.

Written from the rules of IFEval (arXiv 2311.07911) as its official scorer applies them. A check
takes the answer and the arguments of the instruction, by their names in the data. As in the
official scorer, langdetect recognises languages, and nltk splits words and sentences. Its sentence
model has to be downloaded; `sentence_splitter` says what replaces it.
"""

import collections
import functools
import json
import re
from collections.abc import Callable

try:
    import langdetect
    import nltk
    from nltk.tokenize.destructive import NLTKWordTokenizer
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer
except ImportError:
    raise ImportError("IFEval needs langdetect and nltk: pip install -e '.[voicebench]'") from None

ABBREVIATIONS = (
    "mr mrs ms dr prof sr jr st mt vs etc e.g i.e a.m p.m u.s u.k u.n inc ltd co corp vol col lt "
    "capt sgt rev hon gov sen rep jan feb apr aug sept oct nov dec approx ph.d b.a m.a"
)
CONSTRAINED = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
FENCES = ("```json", "```Json", "```JSON", "```")
POSTSCRIPTS = {"P.P.S": r"p\.\s?p\.\s?s.*$", "P.S.": r"p\.\s?s\..*$"}
"""Markers with a pattern of their own, which allows spaces between the letters."""
WORD_ENDS = frozenset(".,?!'\"")

# langdetect samples at random without a seed.
langdetect.DetectorFactory.seed = 0


def language_of(text: str) -> str | None:
    """ISO 639-1 code of a text; None if the text has no words to recognise a language by."""
    try:
        return str(langdetect.detect(text))
    except langdetect.LangDetectException:
        return None


@functools.cache
def sentence_splitter() -> Callable[[str], list[str]]:
    """A function that splits text into sentences.

    It uses nltk's trained English model if that is installed, as the official scorer does, else the
    rules of the same algorithm with the abbreviations above.
    """
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError:
        parameters = PunktParameters()
        parameters.abbrev_types = set(ABBREVIATIONS.split())
        return PunktSentenceTokenizer(parameters).tokenize
    return functools.partial(nltk.sent_tokenize, language="english")


def compares(count: int, relation: str, limit: int) -> bool:
    """Whether a count is `less than` or `at least` a limit.

    Raises:
        ValueError: IFEval has no such relation.
    """
    if relation == "less than":
        return count < limit
    if relation == "at least":
        return count >= limit
    raise ValueError(f"relation={relation!r}: IFEval knows `less than` and `at least`")


# ---- words


def existence(text: str, keywords: list[str]) -> bool:
    """Every keyword occurs; keywords are patterns, and case does not matter."""
    return all(re.search(word, text, re.IGNORECASE) for word in keywords)


def frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    """A keyword occurs less than or at least a number of times, also within words."""
    count = len(re.findall(keyword, text, re.IGNORECASE))
    return compares(count, relation, frequency)


def forbidden_words(text: str, forbidden_words: list[str]) -> bool:
    """None of the words occurs as a whole word."""
    return not any(re.search(rf"\b{word}\b", text, re.IGNORECASE) for word in forbidden_words)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """A letter occurs less than or at least a number of times, in either case."""
    # A Counter of single letters: an argument of several letters is never found.
    count = collections.Counter(text.lower())[letter.lower()]
    return compares(count, let_relation, let_frequency)


def response_language(text: str, language: str) -> bool:
    """The answer is in a language, or in none that can be recognised."""
    return language_of(text) in (None, language)


# ---- lengths


def number_sentences(text: str, num_sentences: int, relation: str) -> bool:
    """The answer has less than or at least a number of sentences."""
    sentences = sentence_splitter()(text)
    return compares(len(sentences), relation, num_sentences)


def number_words(text: str, num_words: int, relation: str) -> bool:
    """The answer has less than or at least a number of words; `it's` counts as two."""
    words = re.findall(r"\w+", text)
    return compares(len(words), relation, num_words)


def number_paragraphs(text: str, num_paragraphs: int) -> bool:
    """The answer has exactly a number of paragraphs, separated by `***`.

    An empty paragraph is allowed at either end, where it does not count, but not in between.
    """
    parts = re.split(r"\s?\*\*\*\s?", text)
    filled = [bool(part.strip()) for part in parts]
    return all(filled[1:-1]) and sum(filled) == num_paragraphs


def nth_paragraph_first_word(
    text: str, num_paragraphs: int, nth_paragraph: int, first_word: str
) -> bool:
    """The n-th of a number of paragraphs, separated by empty lines, begins with a word.

    As in the official scorer, n counts empty paragraphs, and the number of paragraphs does not.
    """
    parts = text.split("\n\n")
    count = sum(bool(part.strip()) for part in parts)
    if not 1 <= nth_paragraph <= count:
        return False
    paragraph = parts[nth_paragraph - 1]
    if not paragraph.strip():
        return False
    word = ""
    for letter in paragraph.split()[0].lstrip("'").lstrip('"'):
        if letter in WORD_ENDS:
            break
        word += letter
    return count == num_paragraphs and word.lower() == first_word.lower()


# ---- content and format


def number_placeholders(text: str, num_placeholders: int) -> bool:
    """The answer has at least a number of placeholders in square brackets."""
    return len(re.findall(r"\[.*?\]", text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    """A postscript with a marker occurs; case does not matter."""
    pattern = POSTSCRIPTS.get(postscript_marker, postscript_marker.lower() + ".*$")
    return bool(re.search(rf"\s*{pattern}", text.lower(), re.MULTILINE))


def number_bullet_lists(text: str, num_bullets: int) -> bool:
    """The answer has exactly a number of bullet points, with asterisks or hyphens."""
    # two asterisks are bold text, not a bullet point
    with_asterisk = re.findall(r"^\s*\*[^\*].*$", text, re.MULTILINE)
    with_hyphen = re.findall(r"^\s*-.*$", text, re.MULTILINE)
    return len(with_asterisk) + len(with_hyphen) == num_bullets


def constrained_response(text: str) -> bool:
    """One of the three allowed answers occurs."""
    return any(option in text for option in CONSTRAINED)


def number_highlighted_sections(text: str, num_highlights: int) -> bool:
    """At least a number of parts are highlighted with asterisks."""
    count = 0
    for part in re.findall(r"\*[^\n\*]*\*", text):
        count += bool(part.strip("*").strip())
    for part in re.findall(r"\*\*[^\n\*]*\*\*", text):
        count += bool(part[2:-2].strip())
    return count >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    """At least a number of numbered sections occur, each after the splitter."""
    headings = re.findall(rf"\s?{section_spliter}\s?\d+\s?", text)
    return len(headings) >= num_sections


def json_format(text: str) -> bool:
    """The whole answer is JSON, with or without a Markdown fence."""
    text = text.strip()
    # One fence after another is removed, as the official scorer does.
    for fence in FENCES:
        text = text.removeprefix(fence)
    try:
        json.loads(text.removesuffix("```").strip())
    except ValueError:
        return False
    return True


def title(text: str) -> bool:
    """A title in double angle brackets occurs that is not blank."""
    titles = re.findall(r"<<[^\n]+>>", text)
    return any(title.lstrip("<").rstrip(">").strip() for title in titles)


# ---- combinations, beginning and end, case, punctuation


def two_responses(text: str) -> bool:
    """The answer is two different responses, separated by `******`.

    An empty response is allowed at either end, where it does not count.
    """
    parts = [part.strip() for part in text.split("******")]
    filled = [part for part in parts if part]
    return all(parts[1:-1]) and len(filled) == 2 and filled[0] != filled[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    """The answer begins with the prompt; case does not matter."""
    return text.strip().lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, end_phrase: str) -> bool:
    """The answer ends with a phrase; case does not matter."""
    return text.strip().strip('"').lower().endswith(end_phrase.strip().lower())


def quotation(text: str) -> bool:
    """The whole answer is in double quotation marks."""
    text = text.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'


def capital_word_frequency(text: str, capital_frequency: int, capital_relation: str) -> bool:
    """Less than or at least a number of words are in capital letters."""
    count = 0
    for sentence in sentence_splitter()(text):
        words = NLTKWordTokenizer().tokenize(sentence)
        count += sum(word.isupper() for word in words)
    return compares(count, capital_relation, capital_frequency)


def english_capital(text: str) -> bool:
    """The answer is in capital letters, and in English as far as can be recognised."""
    return text.isupper() and language_of(text) in (None, "en")


def english_lowercase(text: str) -> bool:
    """The answer is in lower case, and in English as far as can be recognised."""
    return text.islower() and language_of(text) in (None, "en")


def no_comma(text: str) -> bool:
    """The answer has no comma."""
    return "," not in text


GROUPS: dict[str, tuple[Callable[..., bool], ...]] = {
    "keywords": (existence, frequency, forbidden_words, letter_frequency),
    "language": (response_language,),
    "length_constraints": (
        number_sentences,
        number_paragraphs,
        number_words,
        nth_paragraph_first_word,
    ),
    "detectable_content": (number_placeholders, postscript),
    "detectable_format": (
        number_bullet_lists,
        constrained_response,
        number_highlighted_sections,
        multiple_sections,
        json_format,
        title,
    ),
    "combination": (two_responses, repeat_prompt),
    "startend": (end_checker, quotation),
    "change_case": (capital_word_frequency, english_capital, english_lowercase),
    "punctuation": (no_comma,),
}
CHECKS: dict[str, Callable[..., bool]] = {}
for _group, _checks in GROUPS.items():
    CHECKS |= {f"{_group}:{_check.__name__}": _check for _check in _checks}
"""Kind of instruction, by its name in the data -> check."""
