"""The directory store behaves as a dict does, and gives back any Arrow table."""

import functools

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.contract.arrow_types import COLUMNS, difference, tables
from tests.contract.model import StoreModel

import eau2


class EmbeddedModel(StoreModel):
    def make_opener(self, folder):
        return functools.partial(eau2.open, folder)


TestEmbeddedModel = pytest.mark.slow(EmbeddedModel.TestCase)
TestEmbeddedModel.settings = settings(
    max_examples=12,
    stateful_step_count=30,
    phases=(Phase.explicit, Phase.reuse, Phase.generate),  # shrinking takes minutes; run it by hand with Phase.shrink
)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with eau2.open(tmp_path_factory.mktemp("any") / "store") as store:
        yield store


@pytest.mark.slow
@given(table=tables())
@settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_any_table_comes_back(store, table):
    store.put("any", table)
    frame = store.frame("any")
    assert frame.schema.equals(table.schema, check_metadata=True)
    assert frame.rows == table.num_rows
    assert difference(frame.to_arrow(), table) == ""


@given(
    content=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8),
        st.binary(max_size=50),
        max_size=10,
    )
)
@settings(max_examples=50)
def test_any_keys_and_bytes_come_back(store, content):
    store.delete_many(store.keys())
    store.put_many(content)
    assert store.keys() == sorted(content)
    assert store.get_many(content) == content
    for prefix in {key[:1] for key in content}:
        assert store.keys(prefix) == sorted(key for key in content if key.startswith(prefix))


@pytest.mark.slow
def test_a_table_of_every_type_at_once_comes_back(store):
    source = pa.table({name: column for name, column in COLUMNS.items() if name != "unregistered extension"})
    store.put("all", source)
    assert difference(store.frame("all").to_arrow(), source) == ""
