"""Dask: four worker processes of one thread each, the tables kept in their memory."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
from dask.distributed import Client, LocalCluster, wait

from benchmarks.peers import NODES, serve

if TYPE_CHECKING:
    from collections.abc import Callable


def questions(buyers: dd.DataFrame, sales: dd.DataFrame) -> dict[str, Callable[[], pd.DataFrame]]:
    """The questions of `questions.QUERIES` as its documentation says them."""

    def grouped(key: str, **columns: tuple[str, str]) -> Callable[[], pd.DataFrame]:
        several = {function for _, function in columns.values()}

        def ask() -> pd.DataFrame:
            found = sales.groupby(key)["amount"].agg(sorted(several)).compute()
            ordered = [found[function] for _, function in columns.values()]
            return pd.concat([found.index.to_series(), *ordered], axis=1)

        return ask

    def filtered() -> pd.DataFrame:
        return sales[(sales.amount < 0.01) & (sales.kind < 50)][["buyer", "amount"]].compute()

    def joined() -> pd.DataFrame:
        both = sales[["buyer", "amount"]].merge(buyers, on="buyer")
        found = both.assign(total=both.amount * both.weight).groupby("region").total.sum().compute()
        return found.reset_index()

    def distinct() -> pd.DataFrame:
        found = dask.compute(sales.buyer.nunique(), sales.label.nunique())
        return pd.DataFrame({"buyers": [found[0]], "labels": [found[1]]})

    def with_itself() -> pd.DataFrame:
        some = sales[sales.kind < 20][["id", "amount"]]
        both = some.merge(sales[["id", "amount"]], on="id")
        found = dask.compute(both.id.count(), (both.amount_x * both.amount_y).sum())
        return pd.DataFrame({"n": [found[0]], "total": [found[1]]})

    return {
        "count, small table": lambda: pd.DataFrame({"n": [(buyers.weight < 0.5).sum().compute()]}),
        "group by 100,000 integers": grouped("buyer", total=("amount", "sum"), mean=("amount", "mean")),
        "group by 100 integers": grouped("kind", total=("amount", "sum"), mean=("amount", "mean")),
        "group by 10,000 strings": grouped("label", total=("amount", "sum"), n=("amount", "count")),
        "filter": filtered,
        "needle": lambda: sales[sales.buyer == 31415][["buyer", "amount", "label"]].compute(),
        "top 100": lambda: sales[["buyer", "amount"]].nlargest(100, "amount").compute(),
        "join with a small table": joined,
        "count distinct": distinct,
        "join with itself": with_itself,
    }


def main() -> None:
    folder = sys.argv[1]
    with LocalCluster(n_workers=NODES, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        tables = [dd.read_parquet(f"{folder}/{name}").persist() for name in ("buyers", "sales")]
        wait(tables)
        asked = questions(*tables)
        serve(lambda name: pa.Table.from_pandas(asked[name](), preserve_index=False))


if __name__ == "__main__":
    main()
