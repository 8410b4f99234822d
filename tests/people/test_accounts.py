"""Accounts: names, passwords, invitations, sessions, roles; whoever asks, nobody gets in twice or too long."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from argon2 import PasswordHasher
from sqlalchemy import event, select

from judge.human.accounts import Accounts
from judge.human.credentials import Passwords, clean_name
from judge.human.errors import Conflict, Invalid, QueueRefusal
from judge.human.people import InvitationGone, SignInRefused, UnknownAccount
from judge.human.schema import annotators, events, invitations, sessions
from tests.support.label_page import PASSWORD, Clock, quick_passwords, tiny_queue

HOUR_S, DAY_S = 3_600.0, 86_400.0


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(tmp_path, clock):
    return tiny_queue(tmp_path, clock)


@pytest.fixture
def accounts(database):
    return Accounts(database, session_s=12 * HOUR_S, passwords=quick_passwords())


def actions(database):
    with database.read() as connection:
        return connection.execute(select(events.c.actor, events.c.action).order_by(events.c.id)).all()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("  Ana  María ", "Ana María"),
        ("ａｎａ", "ana"),  # full width
        ("a\u00a0b", "a b"),
        ("李雷", "李雷"),
        ("o'Neil; DROP TABLE annotators;--", "o'Neil; DROP TABLE annotators;--"),
        ("x" * 80, "x" * 80),
    ],
)
def test_names_are_kept_in_one_form(given, kept):
    assert clean_name(given) == kept


@pytest.mark.parametrize(
    "name",
    ["", "   ", "x" * 81, "a\x00b", "a\u202eb", "a\u2066b", "a\u200bb", "\ud800", "\u3164", "a\ufe0f", "a\x1b[1m", "--",
     "System", "quorum", "command line"],
)  # fmt: skip
def test_names_that_hide_something_are_refused(accounts, name):
    with pytest.raises(Invalid):
        accounts.add(name, "annotator", PASSWORD)


def test_a_name_is_taken_whatever_its_case(accounts):
    accounts.add("Straße", "annotator", PASSWORD)
    with pytest.raises(Conflict):
        accounts.add("STRASSE", "annotator", PASSWORD)
    assert accounts.sign_in("strasse", PASSWORD).name == "Straße"


def test_of_threads_that_take_one_name_one_gets_it(accounts):
    def take(name):
        try:
            return accounts.add(name, "annotator").name
        except Conflict:
            return None

    with ThreadPoolExecutor(8) as pool:
        taken = list(pool.map(take, ["ana", "Ana", "aNa", "ANA"] * 4))
    assert len([name for name in taken if name]) == 1
    assert len(accounts.people()) == 1


@pytest.mark.parametrize("password", ["", "123456789", "aaaaaaaaaaaa", "Ana Bertrand", "x" * 1_025])
def test_weak_passwords_are_refused(accounts, password):
    with pytest.raises(Invalid):
        accounts.add("ana bertrand", "annotator", password)
    assert accounts.people() == []


def test_passwords_are_kept_as_argon2id_and_compared_in_one_form(accounts, database):
    accounts.add("ana", "annotator", "caf\u00e9 au lait")
    with database.read() as connection:
        stored = connection.execute(select(annotators.c.password_hash)).scalar_one()
    assert stored.startswith("$argon2id$")
    assert accounts.sign_in("ana", "cafe\u0301 au lait").name == "ana"


def test_every_refused_sign_in_looks_alike_and_costs_one_hash(database):
    hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    num_verified = 0

    class Counting(PasswordHasher):
        def verify(self, *args):
            nonlocal num_verified
            num_verified += 1
            return hasher.verify(*args)

    accounts = Accounts(database, passwords=Passwords(Counting(time_cost=1, memory_cost=8, parallelism=1)))
    accounts.add("ana", "annotator", PASSWORD)
    accounts.add("proxied", "annotator")
    gone = accounts.add("gone", "annotator", PASSWORD)
    accounts.disable(gone.annotator_id)
    tries = [("ana", "wrong horse"), ("nobody", PASSWORD), ("proxied", PASSWORD), ("gone", PASSWORD), ("a\x00", "x")]
    tries.append(("ana' OR 1=1 --", PASSWORD))
    messages = set()
    for number, (name, password) in enumerate(tries, 1):
        with pytest.raises(SignInRefused) as refused:
            accounts.sign_in(name, password)
        messages.add(str(refused.value))
        assert num_verified == number
    assert len(messages) == 1


def test_a_hash_of_older_parameters_is_renewed_when_its_owner_signs_in(accounts, database):
    older = Accounts(database, passwords=Passwords(PasswordHasher(time_cost=2, memory_cost=8, parallelism=1)))
    older.add("ana", "annotator", PASSWORD)
    accounts.sign_in("ana", PASSWORD)
    with database.read() as connection:
        assert ",t=1," in f",{connection.execute(select(annotators.c.password_hash)).scalar_one().split('$')[3]},"
    accounts.sign_in("ana", PASSWORD)


def test_an_invitation_opens_one_account_and_then_nothing(accounts):
    boss = accounts.add("boss", "administrator", PASSWORD)
    token = accounts.invite("annotator", "for Ana", boss, days=1)
    assert accounts.invitation(token).note == "for Ana"
    ana = accounts.accept(token, "Ana", PASSWORD)
    assert (ana.name, ana.role) == ("Ana", "annotator")
    with pytest.raises(InvitationGone):
        accounts.accept(token, "Eve", PASSWORD)
    with pytest.raises(InvitationGone):
        accounts.invitation(token)
    [row] = accounts.invitations()
    assert (row.made_by, row.name, row.used_at) == ("boss", "Ana", 1_700_000_000.0)


def test_of_threads_that_use_one_invitation_one_gets_in(accounts):
    token = accounts.invite("annotator")

    def use(number):
        try:
            return accounts.accept(token, f"ana {number}", PASSWORD)
        except InvitationGone:
            return None

    with ThreadPoolExecutor(8) as pool:
        assert len([made for made in pool.map(use, range(12)) if made]) == 1
    assert len(accounts.people()) == 1


def test_an_invitation_ends_by_time_and_by_revoking(accounts, clock):
    late, revoked = accounts.invite("annotator", days=1), accounts.invite("annotator")
    accounts.revoke(accounts.invitations()[0].row_id)
    with pytest.raises(InvitationGone):
        accounts.accept(revoked, "ana", PASSWORD)
    clock.now += DAY_S
    with pytest.raises(InvitationGone):
        accounts.invitation(late)
    with pytest.raises(UnknownAccount):
        accounts.revoke(99)


def test_a_name_that_is_taken_does_not_use_the_invitation_up(accounts):
    accounts.add("ana", "annotator", PASSWORD)
    token = accounts.invite("annotator")
    with pytest.raises(Conflict):
        accounts.accept(token, "ANA", PASSWORD)
    assert accounts.accept(token, "bea", PASSWORD).name == "bea"


def test_a_reset_link_changes_the_password_of_its_account_alone_and_ends_its_sessions(accounts):
    ana = accounts.add("ana", "annotator", PASSWORD)
    session = accounts.start_session(ana.annotator_id)
    former, token = accounts.reset(ana.annotator_id), accounts.reset(ana.annotator_id)
    with pytest.raises(InvitationGone):
        accounts.accept(former, "ana", "battery staple")
    assert accounts.invitation(token).name == "ana"
    assert accounts.accept(token, "somebody else", "battery staple") == ana
    assert accounts.session(session.token) is None
    assert accounts.sign_in("ana", "battery staple") == ana
    with pytest.raises(SignInRefused):
        accounts.sign_in("ana", PASSWORD)
    assert [person.name for person in accounts.people()] == ["ana"]


def test_a_reset_link_does_not_open_a_disabled_account(accounts):
    ana = accounts.add("ana", "annotator", PASSWORD)
    token = accounts.reset(ana.annotator_id)
    accounts.disable(ana.annotator_id)
    with pytest.raises(InvitationGone):
        accounts.accept(token, "ana", "battery staple")


def test_no_token_stands_in_the_database(accounts, database, tmp_path):
    ana = accounts.add("ana", "annotator", PASSWORD)
    tokens = [accounts.invite("annotator"), accounts.start_session(ana.annotator_id).token]
    database.close()
    stored = b"".join(file.read_bytes() for file in tmp_path.iterdir())
    assert b"annotator" in stored
    assert not [token for token in [*tokens, PASSWORD] if token.encode() in stored]


def test_a_session_lives_by_use_and_ends_without(accounts, clock):
    ana = accounts.add("ana", "annotator", PASSWORD)
    tokens = accounts.start_session(ana.annotator_id)
    for _ in range(5):
        clock.now += 11 * HOUR_S
        found = accounts.session(tokens.token)
        assert found is not None
        assert (found.identity, found.csrf) == (ana, tokens.csrf)
    clock.now += 12 * HOUR_S
    assert accounts.session(tokens.token) is None
    assert accounts.session(tokens.csrf) is None


def test_a_session_ends_after_thirty_days_of_use(accounts, clock):
    tokens = accounts.start_session(accounts.add("ana", "annotator", PASSWORD).annotator_id)
    num_hours = 0
    while accounts.session(tokens.token) is not None:
        clock.now += 6 * HOUR_S
        num_hours += 6
    assert num_hours == 30 * 24


def test_a_session_is_written_at_most_once_a_minute(accounts, database, clock):
    tokens = accounts.start_session(accounts.add("ana", "annotator", PASSWORD).annotator_id)
    written = []
    event.listen(
        database.engine,
        "before_cursor_execute",
        lambda _c, _cur, statement, *_: written.append(statement) if statement.startswith("UPDATE sessions") else None,
    )
    for _ in range(120):
        clock.now += 1
        accounts.session(tokens.token)
    assert len(written) == 2


def test_sessions_that_have_ended_are_removed(accounts, database, clock):
    ana = accounts.add("ana", "annotator", PASSWORD)
    accounts.start_session(ana.annotator_id)
    clock.now += DAY_S
    tokens = accounts.start_session(ana.annotator_id)
    with database.read() as connection:
        assert len(connection.execute(select(sessions)).all()) == 1
    accounts.end_session(tokens.token)
    assert accounts.session(tokens.token) is None


def test_disabling_ends_sessions_at_once_and_is_reversible(accounts):
    ana = accounts.add("ana", "annotator", PASSWORD)
    tokens = accounts.start_session(ana.annotator_id)
    accounts.disable(ana.annotator_id)
    assert accounts.session(tokens.token) is None
    with pytest.raises(SignInRefused):
        accounts.start_session(ana.annotator_id)
    accounts.disable(ana.annotator_id, False)
    assert accounts.session(tokens.token) is None
    assert accounts.sign_in("ana", PASSWORD) == ana


def test_the_last_administrator_stays(accounts):
    boss = accounts.add("boss", "administrator", PASSWORD)
    for act in (lambda: accounts.disable(boss.annotator_id), lambda: accounts.set_role(boss.annotator_id, "annotator")):
        with pytest.raises(Conflict):
            act()
    assert accounts.sign_in("boss", PASSWORD).role == "administrator"
    accounts.set_role(accounts.add("ana", "annotator").annotator_id, "administrator")
    accounts.set_role(boss.annotator_id, "annotator")
    assert accounts.sign_in("boss", PASSWORD).role == "annotator"
    assert accounts.has_administrator()


def test_a_proxys_word_makes_an_annotator_once(accounts):
    ana = accounts.by_header("ana@example.org")
    assert ana is not None
    assert ana.role == "annotator"
    assert accounts.by_header("ANA@example.org") == ana
    assert accounts.by_header("\u202eana") is None
    accounts.disable(ana.annotator_id)
    assert accounts.by_header("ana@example.org") is None
    assert len(accounts.people()) == 1


def test_a_subject_joins_when_it_may_and_is_known_by_its_subject_from_then_on(accounts):
    ana = accounts.by_subject("idp 1", "ana@x.org", may_join=True, is_verified=True)
    assert accounts.by_subject("idp 1", "renamed@x.org", may_join=False, is_verified=False) == ana
    for options in ({"may_join": False, "is_verified": True}, {"may_join": True, "is_verified": False}):
        with pytest.raises(SignInRefused):
            accounts.by_subject("idp 2", "bea@x.org", **options)
    accounts.disable(ana.annotator_id)
    with pytest.raises(SignInRefused):
        accounts.by_subject("idp 1", "ana@x.org", may_join=True, is_verified=True)


def test_a_subject_takes_over_no_account_that_somebody_else_can_sign_in_to(accounts):
    accounts.add("ana@x.org", "administrator", PASSWORD)
    accounts.by_subject("idp 1", "bea@x.org", may_join=True, is_verified=True)
    for name in ("ana@x.org", "bea@x.org"):
        with pytest.raises(SignInRefused):
            accounts.by_subject("idp 2", name, may_join=True, is_verified=True)
    made = accounts.add("cleo@x.org", "administrator")  # by an administrator, for this person
    with pytest.raises(SignInRefused):
        accounts.by_subject("idp 3", "cleo@x.org", may_join=True, is_verified=False)
    assert accounts.by_subject("idp 3", "cleo@x.org", may_join=False, is_verified=True) == made


def test_an_invitation_can_be_used_with_a_subject(accounts):
    first, second = accounts.invite("administrator"), accounts.invite("annotator")
    ana = accounts.accept(first, "ana@x.org", subject="idp 1")
    assert ana.role == "administrator"
    assert accounts.by_subject("idp 1", "ana@x.org", may_join=False, is_verified=False) == ana
    with pytest.raises(Conflict):
        accounts.accept(second, "ana two", subject="idp 1")


def test_whatever_changes_is_in_the_audit_log_with_who_did_it(accounts, database):
    boss = accounts.add("boss", "administrator", PASSWORD)
    ana = accounts.accept(accounts.invite("annotator", "", boss), "ana", PASSWORD)
    accounts.start_session(ana.annotator_id)
    accounts.set_role(ana.annotator_id, "administrator", boss)
    accounts.disable(ana.annotator_id, True, boss)
    accounts.disable(ana.annotator_id, False, boss)
    accounts.reset(ana.annotator_id, boss)
    accounts.revoke(accounts.invitations()[0].row_id, boss)
    assert actions(database) == [
        ("command line", "account_added"),
        ("boss", "invited"),
        ("ana", "invitation_used"),
        ("ana", "signed_in"),
        ("boss", "role_changed"),
        ("boss", "account_disabled"),
        ("boss", "account_enabled"),
        ("boss", "reset"),
        ("boss", "invitation_revoked"),
    ]
    with database.read() as connection:
        for detail in connection.execute(select(events.c.detail)).scalars():
            assert not {"token", "password", "csrf"} & set(json.loads(detail))


@pytest.mark.parametrize(("days", "note"), [(0, ""), (91, ""), (1, "x" * 201), (1, "a\x00"), (1, "\u202e")])
def test_invitations_with_odd_terms_are_refused(accounts, database, days, note):
    with pytest.raises(QueueRefusal):
        accounts.invite("annotator", note, days=days)
    with database.read() as connection:
        assert connection.execute(select(invitations)).all() == []
