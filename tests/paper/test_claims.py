"""The file of claims is complete, says what the paper prints, and names only what exists."""

import re
from collections import Counter

import pytest

from ddcore.experiments import catalogue, records
from ddcore.paper import claims
from ddcore.paper.claims import (
    Baseline,
    Context,
    Curve,
    MetricReference,
    Number,
    Rate,
    Repeat,
    Result,
    Setup,
    Statement,
    Verdict,
    expand,
)
from ddcore.support.errors import InputError

CLAIMS = claims.load()
CELLS = [c for c in CLAIMS.values() if isinstance(c, Result | Context | Baseline)]
METRIC = re.compile(
    r"(test_accuracy|class_accuracy|attacked_correct|attacked_as_target|accuracy_wrt_modified)"
    r"(_before)?(\.\d)?(\.std)?|lrs\.\d+(\.\d+)?"
)


def of_kind(kind):
    return [claim for claim in CLAIMS.values() if isinstance(claim, kind)]


class TestNotations:
    @pytest.mark.parametrize(
        ("pattern", "names"),
        [
            pytest.param("a", ["a"], id="one name"),
            pytest.param("a b", ["a", "b"], id="words"),
            pytest.param("a-{b,c}", ["a-b", "a-c"], id="braces"),
            pytest.param("{a,b}{1,2}", ["a1", "a2", "b1", "b2"], id="two braces"),
            pytest.param("", [], id="nothing"),
        ],
    )
    def test_braces_name_several(self, pattern, names):
        assert expand(pattern) == names

    @pytest.mark.parametrize(
        ("text", "reference"),
        [
            pytest.param("e", MetricReference("e", "test_accuracy"), id="an experiment alone"),
            pytest.param("e:loss", MetricReference("e", "loss"), id="a metric"),
            pytest.param("e:loss.std", MetricReference("e", "loss", of_std=True), id="its std"),
            pytest.param("e:loss.7", MetricReference("e", "loss", (7,)), id="of a class"),
            pytest.param(
                "e:loss.7.std", MetricReference("e", "loss", (7,), of_std=True), id="its std too"
            ),
            pytest.param("e:lrs.2", MetricReference("e", "lrs", (2,)), id="an epoch's rates"),
            pytest.param("e:lrs.2.9", MetricReference("e", "lrs", (2, 9)), id="a rate"),
        ],
    )
    def test_a_reference_names_a_number_of_a_record(self, text, reference):
        assert MetricReference.parse(text) == reference

    def test_verdicts_stand_from_worst_to_best(self):
        words = "not run, unreadable, not reproduced, below, equal, exceeded, not measured, "
        words += "contradicted, contradicted in part, short of the threshold, "
        assert ", ".join(Verdict) == words + "holds where it was run, holds"


class TestWhatIsPrinted:
    def test_everything_is_there(self):
        kinds = Counter(claim.kind for claim in CLAIMS.values())
        assert len(CELLS) == 152
        assert len(CELLS) + kinds["std"] == 286
        assert kinds["rate"] == 32
        assert kinds["repeat"] == 12
        assert kinds["statement"] == 40
        assert kinds["curve"] == 20
        assert kinds["discrepancy"] == 11
        assert kinds["setup"] == 45

    def test_every_place_has_its_cells(self):
        places = Counter(re.sub(r"^fig1[abc]", "fig1", c.id).split(".")[0] for c in CELLS)
        assert places == {
            "fig1": 8,
            "full": 2,
            "intro": 1,
            "fig2a": 2,
            "fig2b": 2,
            "fig3a": 1,
            "fig3b": 1,
            "table1": 20,
            "table2": 15,
            "table3": 60,
            "fig6a": 20,
            "fig6b": 20,
        }

    def test_values_are_the_printed_ones(self):
        printed = [c for c in CELLS if c.value is not None]
        assert len(printed) == 112
        assert round(sum(c.value for c in printed), 2) == 6071.65
        assert round(sum(c.std or 0 for c in printed), 2) == 513.03

    def test_a_row_of_table_3(self):
        metrics = "{attacked_correct,attacked_as_target,accuracy_wrt_modified}"
        row = [CLAIMS[name].value for name in expand(f"table3.cifar10.200.{{ours,real}}.{metrics}")]
        assert row == [7.96, 45.58, 69.90, 79.57, 3.03, 70.08]

    def test_a_std_follows_where_one_is_printed(self):
        assert CLAIMS["table3.mnist.300.real.attacked_as_target.std"].value == 0.05  # as .05
        assert CLAIMS["fig3a.accuracy.std"].value == 4.45
        assert "fig2a.accuracy.std" not in CLAIMS

    def test_what_the_text_garbles_is_null_and_shown(self):
        garbled = [
            claim
            for claim in CLAIMS.values()
            if re.match("fig6[ab]", claim.id) and not isinstance(claim, Rate)
        ]
        assert len(garbled) == 80
        assert all(claim.value is None and "%" in claim.extracted for claim in garbled)

    def test_two_rates_can_be_read(self):
        rates = of_kind(Rate)
        readable = {claim.id: claim.value for claim in rates if claim.value is not None}
        assert readable == {"fig6a.rate": 0.003582, "fig6b.rate": 0.001857}
        for rate in rates[-2:]:  # letters of one string, digits of the other
            digits = re.sub(r"[^\d.:LR]", "", rate.extracted)
            assert digits == f"LR:{rate.value}"

    def test_repeats_repeat(self):
        assert all(c.value == CLAIMS[c.same_as].value for c in of_kind(Repeat))

    def test_the_text_fixes_two_points_of_each_curve(self):
        fixed = {c.id: c.printed_as for c in of_kind(Curve) if c.printed_as}
        assert fixed == {
            "fig4b.mnist.1": "table1.mnist.10.many",
            "fig4b.mnist.3": "fig3a.accuracy",
            "fig4b.cifar10.1": "table1.cifar10.10.many",
            "fig4b.cifar10.3": "fig3b.accuracy",
        }
        assert all(c.value is None for c in of_kind(Curve))


class TestWhatChaptersRead:
    @pytest.mark.parametrize(
        ("name", "value", "std"),
        [
            pytest.param("fig3a.accuracy", 77.28, 4.45, id="a result"),
            pytest.param("fig2a.accuracy", 93.76, None, id="a result without a std"),
            pytest.param("fig4b.mnist.3", 77.28, 4.45, id="a point that the text fixes"),
            pytest.param("fig4b.mnist.2", None, None, id="any other point"),
            pytest.param("intro.full-mnist", 99, None, id="a repeat"),
        ],
    )
    def test_the_number_behind_a_claim(self, name, value, std):
        claim = CLAIMS[name]
        source = claim.printed_as if isinstance(claim, Curve) else getattr(claim, "same_as", "")
        number = CLAIMS.get(source, claim)
        assert (number.value, number.std) == (value, std)


class TestWhatAnswers:
    def references(self, claim):
        match claim:
            case Number() | Curve():
                return [f"{claim.experiment}:{claim.metric}"]
            case Setup():
                return expand(claim.experiments)
            case Statement():
                return [name for comparison in claim.compare for name in comparison.references()]
        return []

    def test_only_known_experiments_and_metrics(self):
        count = 0
        for claim in CLAIMS.values():
            for reference in self.references(claim):
                experiment, _, metric = reference.partition(":")
                assert catalogue.resolve(experiment), (claim.id, reference)
                assert METRIC.fullmatch(metric or "test_accuracy"), (claim.id, reference)
                count += 1
        assert count > 500

    def test_comparisons_have_as_many_experiments_on_both_sides(self):
        for claim in of_kind(Statement):
            for comparison in claim.compare:
                assert comparison.pairs(), claim.id  # zip is strict

    def test_lower_is_better_only_for_the_attacked_class(self):
        lower = {c.id for c in CELLS if c.rule == "at most"}
        table3 = expand("table3.{mnist,cifar10}.{10,50,100,200,300}.ours.attacked_correct")
        assert lower == {*table3, "fig1c.after", "fig6a.0.after", "fig6b.plane.after"}

    def test_only_results_have_a_better_side(self):
        assert all((c.rule == "close") != isinstance(c, Result) for c in CELLS)

    def test_all_evidence_is_there(self):
        written = [claim for claim in of_kind(Statement) if claim.evidence]
        assert written
        assert all((records.PROJECT / claim.evidence).is_file() for claim in written)


def readings(text):
    """All (mean, std) that are interleaved in a text, the characters of each in order: dd.dd% and
    ±d.dd% or ±dd.dd%."""

    def fits(pattern, character):
        return character.isdigit() if pattern == "d" else character == pattern

    def split(rest, mean, std):
        if not rest:
            return {("", "")} if not mean and not std else set()
        found = set()
        if mean and fits(mean[0], rest[0]):
            found |= {(rest[0] + m, s) for m, s in split(rest[1:], mean[1:], std)}
        if std and fits(std[0], rest[0]):
            found |= {(m, rest[0] + s) for m, s in split(rest[1:], mean, std[1:])}
        return found

    texts = split(text, "dd.dd%", "±d.dd%") | split(text, "dd.dd%", "±dd.dd%")
    return sorted((float(m[:-1]), float(s[1:-1])) for m, s in texts)


class TestFigure6:
    """What is taken out of its interleaved characters."""

    # all networks' accuracy in percent, of "after" with respect to the modified labels (Table 3)
    # and the attacked class's part in it; test images of each class
    TOTALS = {
        ("fig6a", "before"): (98.60, None),
        ("fig6a", "after"): (91.88, 65.13),
        ("fig6b", "before"): (80.00, None),
        ("fig6b", "after"): (69.59, 33.23),
    }
    IMAGES = {
        "fig6a": [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
        "fig6b": [1000] * 10,
    }

    def possible(self, figure, when):
        """The readings of each class but the first two, without those so low that the total cannot
        be reached with the highest readings of all other classes."""
        cells = [c for c in CELLS if c.id.startswith(figure) and c.id.endswith(f".{when}")]
        total, attacked = self.TOTALS[figure, when]
        images = self.IMAGES[figure]
        found = [readings(cell.extracted) for cell in cells[2:]]
        highest = [100, 100, *(max(mean for mean, _ in each) for each in found)]
        highest[0] = attacked or 100
        best = sum(n * mean for n, mean in zip(images, highest, strict=True))
        missing = best - total * sum(images)
        for k, (cell, each) in enumerate(zip(cells[2:], found, strict=True), 2):
            lowest = highest[k] - missing / images[k] - 0.01
            yield cell, [(mean, std) for mean, std in each if mean >= lowest]

    @pytest.mark.parametrize(("figure", "when"), TOTALS)
    def test_intervals_hold_all_readings_that_are_possible(self, figure, when):
        for cell, each in self.possible(figure, when):
            groups = {}
            for mean, std in each:
                groups.setdefault((int(mean), int(std)), []).append((mean, std))
            for claim, k in ((cell, 0), (CLAIMS[f"{cell.id}.std"], 1)):
                ends = [[min(r[k] for r in g), max(r[k] for r in g)] for g in groups.values()]
                assert claim.intervals == ends, claim.id

    def test_the_first_two_classes_stay_unreadable(self):
        unreadable = {c.id for c in CELLS if c.value is None and not c.intervals}
        assert unreadable == set(expand("{fig6a.0,fig6a.1,fig6b.plane,fig6b.car}.{before,after}"))


class TestMistakes:
    @pytest.mark.parametrize(
        ("right", "wrong"),
        [
            pytest.param("value: 93.76", "value: '93.76'", id="text for a number"),
            pytest.param("value: 93.76", "valu: 93.76", id="a field misspelt"),
            pytest.param("id: fig6b.truck.after", "id: fig6b.ship.after", id="an id twice"),
            pytest.param("tolerance: 5", "tolerence: 5", id="a default misspelt"),
            pytest.param(
                "same_as: fig2a.accuracy", "same_as: fig2c.accuracy", id="a repeat of nothing"
            ),
            pytest.param("rule: at least", "rule: about", id="an unknown rule"),
            pytest.param(
                "claims: fig2{a,b}.accuracy", "claims: fig2{a,c}.accuracy", id="an unknown claim"
            ),
            pytest.param(
                "claims: fig2{a,b}.accuracy", "note: undecided", id="a statement without an answer"
            ),
            pytest.param("- place: Fig. 1a", "- plaice: Fig. 1a", id="a group without a place"),
            pytest.param("kind: repeat", "kind: repeated", id="an unknown kind"),
            pytest.param(
                "id: fig4a.mnist.1, ", "id: fig4a.mnist.1, value: 1, ", id="a point with a value"
            ),
            pytest.param("field: epochs}", "note: epochs}", id="a setup without a field"),
            pytest.param("verdict: holds", "verdict: hold", id="an unknown verdict"),
        ],
    )
    def test_a_mistake_is_refused_in_one_line(self, tmp_path, right, wrong):
        text = claims.FILE.read_text(encoding="utf-8")
        text = re.sub("(id: fig4a.mnist.1,) +", r"\1 ", text)
        assert right in text
        file = tmp_path / "claims.yml"
        file.write_text(text.replace(right, wrong, 1), encoding="utf-8")
        with pytest.raises(InputError, match=r"claims\.yml") as error:
            claims.load(file)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize("text", ["", "- {place: here}", "claims: []", "- [", "- 1"])
    def test_what_is_no_list_of_groups_is_refused(self, tmp_path, text):
        file = tmp_path / "claims.yml"
        file.write_text(text)
        with pytest.raises(InputError, match=r"claims\.yml cannot be used"):
            claims.load(file)
