//! Queries and the plans they become.

use std::sync::Arc;

use super::*;
use crate::expr::Expr;
use crate::plan::{Exchange, JoinKind, Operator};
use crate::planner::schema_after;
use crate::source::Source;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};

mod hard;

type Table = (&'static str, LogicalPlan, SchemaRef);

fn table(name: &'static str, columns: &[(&str, DataType)]) -> Table {
    let fields: Vec<Field> = columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect();
    (name, LogicalPlan::read_parquet([name.to_lowercase()]), Arc::new(Schema::new(fields)))
}

fn tables() -> [Table; 3] {
    use DataType::{Float64, Int32, Int64, Utf8};
    let at = DataType::Timestamp(TimeUnit::Microsecond, None);
    [
        table("trips", &[("PULocationID", Int64), ("fare", Float64), ("tip", Float64), ("flag", Utf8), ("at", at)]),
        table("Zones", &[("LocationID", Int64), ("Zone", Utf8), ("fare", Float64)]),
        table("small", &[("id", Int32), ("ID", Int64), ("trip count", Int64)]),
    ]
}

fn planned(query: &str) -> Result<LogicalPlan, DataError> {
    sql(query, &tables())
}

/// Whether the query becomes this plan, and the plan names only columns that there are.
fn check(query: &str, expected: &[&str]) {
    let plan = planned(query).unwrap_or_else(|e| panic!("{query}: {e}"));
    columns(&plan);
    assert_eq!(plan.to_string().lines().map(str::trim_end).collect::<Vec<_>>(), expected, "{query}");
}

fn check_error(query: &str, expected: &str) {
    let error = planned(query).map(|plan| plan.to_string()).expect_err(query).to_string();
    assert!(error.starts_with("sql: ") && error.contains(expected), "{query}: {error}");
}

/// The columns that a plan gives. One that is named where it is not, or given twice, is an error.
fn columns(plan: &LogicalPlan) -> Vec<String> {
    let need = |known: &[String], name: &str| assert!(known.iter().any(|k| k == name), "no {name} in {known:?}");
    let found: Vec<String> = match plan {
        LogicalPlan::Source(Source::Files(read)) => {
            let (_, _, schema) = tables().into_iter().find(|(name, ..)| name.to_lowercase() == read.paths[0]).unwrap();
            schema.fields().iter().map(|field| field.name().clone()).collect()
        }
        LogicalPlan::Source(_) => vec!["id".into()],
        LogicalPlan::Op { input, op } => {
            let input = columns(input);
            let read = |expr: &Expr| expr.columns().into_iter().for_each(|name| need(&input, name));
            match op {
                Operator::Filter { condition } => read(condition),
                Operator::WithColumn { value, .. } => read(value),
                Operator::Select { columns } => columns.iter().for_each(|name| need(&input, name)),
                Operator::Project { columns } => columns.iter().for_each(|(_, value)| read(value)),
                Operator::Rename { columns } => columns.iter().for_each(|(from, _)| need(&input, from)),
                _ => {}
            }
            match op {
                Operator::WithColumn { name, .. } => [input, vec![name.clone()]].concat(),
                Operator::Select { columns } => columns.clone(),
                Operator::Project { columns } => columns.iter().map(|(name, _)| name.clone()).collect(),
                Operator::Rename { columns } => {
                    let to = |name: &String| columns.iter().find(|(from, _)| from == name).map(|(_, to)| to.clone());
                    input.iter().map(|name| to(name).unwrap_or_else(|| name.clone())).collect()
                }
                _ => input,
            }
        }
        LogicalPlan::Exchange { input, exchange } => {
            let input = columns(input);
            match exchange {
                Exchange::Sort { keys } => {
                    keys.iter().for_each(|key| need(&input, &key.column));
                    input
                }
                Exchange::Aggregate { keys, aggregates } => {
                    let read = keys.iter().chain(aggregates.iter().filter_map(|a| a.column.as_ref()));
                    read.for_each(|name| need(&input, name));
                    keys.iter().cloned().chain(aggregates.iter().map(|a| a.output())).collect()
                }
                other => panic!("{other} comes from no query"),
            }
        }
        LogicalPlan::Join { left, right, join } => {
            let (mut left, right) = (columns(left), columns(right));
            join.left_on.iter().for_each(|name| need(&left, name));
            join.right_on.iter().for_each(|name| need(&right, name));
            if !matches!(join.kind, JoinKind::Semi | JoinKind::Anti) {
                left.extend(right.into_iter().filter(|name| !join.right_on.contains(name)));
            }
            left
        }
        LogicalPlan::Union { inputs } => {
            let all: Vec<_> = inputs.iter().map(|input| columns(input)).collect();
            assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:?}");
            all[0].clone()
        }
        LogicalPlan::Zip { .. } => panic!("a zip comes from no query"),
    };
    let mut names = found.clone();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), found.len(), "{found:?} of {plan}");
    found
}

#[test]
fn columns_are_selected_filtered_and_computed() {
    check("select * from trips", &["read_parquet trips"]);
    check(
        "select pulocationid, FARE as Total from Trips where fare > 10 and at >= '2024-01-01'",
        &[
            "project PULocationID = PULocationID, Total = fare",
            "  filter fare > 10 and at >= \"2024-01-01\"",
            "    read_parquet trips",
        ],
    );
    check(
        "select t.fare, fare * 2, UPPER(t.flag) from trips t where t.fare between 1 and 5 or not flag like 'a%'",
        &[
            "project fare = fare, fare * 2 = fare * 2, upper(flag) = upper(flag)",
            "  filter fare >= 1 and fare <= 5 or not flag like \"a%\"",
            "    read_parquet trips",
        ],
    );
    check("select fare, fare from trips", &["project fare = fare, fare_1 = fare", "  read_parquet trips"]);
    check("select * except (fare) from zones", &["select LocationID, Zone", "  read_parquet zones"]);
    check("select 1 + 1 as two", &["project two = 1 + 1", "  range 1"]);
    check(
        "select a from (select fare, tip from trips) as x(a, b) where A > B",
        &[
            "select a",
            "  filter a > b",
            "    project a = fare, b = tip",
            "      select fare, tip",
            "        read_parquet trips",
        ],
    );
}

#[test]
fn expressions_are_those_of_plans() {
    for (query, expected) in [
        ("case flag when 'Y' then 1 else 0 end", "case when flag = \"Y\" then 1 else 0 end"),
        ("flag in ('Y', null) and flag not in ('x')", "flag in (\"Y\", null) and flag not in (\"x\")"),
        ("flag ~ '^a' or flag not ilike '%b'", "regexp_like(flag, \"^a\") or flag not ilike \"%b\""),
        ("fare not between 1 and 2", "fare < 1 or fare > 2"),
        ("tip is distinct from fare and fare is null", "tip is distinct from fare and fare is null"),
        ("(flag = 'x') is not true", "(flag = \"x\") is distinct from true"),
        ("cast(fare as int)", "cast(fare as int32)"),
        ("fare::decimal(10, 2)", "cast(fare as decimal(10, 2))"),
        ("try_cast(flag as timestamp)", "try_cast(flag as timestamp_us)"),
        ("cast(flag as uint16)", "cast(flag as uint16)"),
        ("date '2024-02-29'", "cast(\"2024-02-29\" as date)"),
        ("at + interval '1 day'", "at + interval \"0 months 1 days 0 nanoseconds\""),
        ("extract(hour from at)", "date_part(\"HOUR\", at)"),
        ("substring(flag from 2 for 3) || 'x'", "substr(flag, 2, 3) || \"x\""),
        ("coalesce(fare, tip, -1.5)", "coalesce(fare, tip, -1.5)"),
        ("x'0aff'", "x'0aff'"),
    ] {
        check(
            &format!("select {query} as c from trips"),
            &[&format!("project c = {expected}"), "  read_parquet trips"],
        );
    }
}

#[test]
fn rows_are_grouped() {
    check("select count(*) from trips", &["aggregate count() as count(*)", "  read_parquet trips"]);
    check(
        "select pulocationid, avg(tip * 2) as tips from trips group by 1 having sum(fare) > 5 order by tips desc limit 9",
        &[
            "limit 9",
            "  sort tips descending",
            "    project PULocationID = PULocationID, tips = `avg(tip * 2)`",
            "      filter `sum(fare)` > 5",
            "        group_by PULocationID: mean(tip * 2) as avg(tip * 2), sum(fare)",
            "          project PULocationID = PULocationID, tip * 2 = tip * 2, fare = fare",
            "            read_parquet trips",
        ],
    );
    check(
        "select date_trunc('day', at) as day, sum(fare) / count(*) as mean from trips group by day",
        &[
            "project day = `date_trunc(\"day\", at)`, mean = `sum(fare)` / `count(*)`",
            "  group_by date_trunc(\"day\", at): sum(fare), count() as count(*)",
            "    project date_trunc(\"day\", at) = date_trunc(\"day\", at), fare = fare",
            "      read_parquet trips",
        ],
    );
    check(
        "select flag, count(distinct tip), median(fare), stddev(fare), percentile_cont(0.9) within group (order by fare) \
         as p90, first_value(tip) from trips group by flag",
        &[
            "project flag = flag, count(DISTINCT tip) = `count(distinct tip)`, median(fare) = `median(fare)`, \
             stddev(fare) = `stddev(fare)`, p90 = `percentile_cont(fare, 0.9)`, first_value(tip) = `first_value(tip)`",
            "  group_by flag: count_distinct(tip) as count(distinct tip), median(fare), std(fare) as stddev(fare), \
             quantile(fare, 0.9) as percentile_cont(fare, 0.9), first(tip) as first_value(tip)",
            "    read_parquet trips",
        ],
    );
    check(
        "select sum(tip) filter (where flag = 'Y') as y from trips",
        &[
            "project y = `sum(case when flag = \"Y\" then tip end)`",
            "  aggregate sum(case when flag = \"Y\" then tip end)",
            "    project case when flag = \"Y\" then tip end = case when flag = \"Y\" then tip end",
            "      read_parquet trips",
        ],
    );
}

#[test]
fn rows_are_distinct_and_sorted() {
    check(
        "select distinct upper(flag), fare from trips order by upper(flag), 2 desc nulls first",
        &[
            "sort upper(flag), fare descending nulls first",
            "  group_by upper(flag), fare:",
            "    project upper(flag) = upper(flag), fare = fare",
            "      read_parquet trips",
        ],
    );
    check(
        "select fare from trips order by tip desc, fare * 2 limit 5",
        &[
            "select fare",
            "  limit 5",
            "    sort tip descending, sort_key",
            "      with_column sort_key = fare * 2",
            "        select fare, tip",
            "          read_parquet trips",
        ],
    );
    check(
        "select flag from trips group by flag order by count(*) desc limit 3",
        &[
            "select flag",
            "  limit 3",
            "    sort count(*) descending",
            "      group_by flag: count() as count(*)",
            "        read_parquet trips",
        ],
    );
}

#[test]
fn tables_are_joined() {
    check(
        "select t.fare, z.fare, z.locationid from trips t join zones z on t.PULocationID = z.LocationID \
         where z.zone = 'a' and t.fare > z.fare and t.flag = 'x'",
        &[
            "project fare = fare, fare_1 = fare_1, LocationID = PULocationID",
            "  filter fare > fare_1",
            "    inner join on PULocationID = LocationID",
            "      filter flag = \"x\"",
            "        read_parquet trips",
            "      rename fare to fare_1",
            "        filter Zone = \"a\"",
            "          read_parquet zones",
        ],
    );
    // What stands alone has no key on the other side, whatever our join gives for it.
    check(
        "select z.locationid, t.fare from trips t left join zones z on t.PULocationID = z.LocationID and z.zone = 'x'",
        &[
            "select LocationID, fare",
            "  left join on PULocationID = LocationID_key",
            "    read_parquet trips",
            "    with_column LocationID_key = LocationID",
            "      rename fare to fare_1",
            "        filter Zone = \"x\"",
            "          read_parquet zones",
        ],
    );
    check(
        "select z.locationid, t.pulocationid from trips t full join zones z on t.PULocationID = z.LocationID",
        &[
            "select LocationID, PULocationID",
            "  full join on PULocationID_key = LocationID_key",
            "    with_column PULocationID_key = PULocationID",
            "      read_parquet trips",
            "    with_column LocationID_key = LocationID",
            "      rename fare to fare_1",
            "        read_parquet zones",
        ],
    );
    check(
        "select fare from trips t left anti join zones z on z.LocationID = t.PULocationID and z.fare > 1",
        &[
            "select fare",
            "  anti join on PULocationID = LocationID",
            "    read_parquet trips",
            "    filter fare > 1",
            "      read_parquet zones",
        ],
    );
    check(
        "select z.zone from zones z join (select pulocationid as LocationID, max(tip) as m from trips group by 1) x \
         using (locationid)",
        &[
            "select Zone",
            "  inner join on LocationID = LocationID_1",
            "    read_parquet zones",
            "    rename LocationID to LocationID_1",
            "      project LocationID = PULocationID, m = `max(tip)`",
            "        group_by PULocationID: max(tip)",
            "          read_parquet trips",
        ],
    );
}

#[test]
fn tables_are_joined_by_what_where_says() {
    check(
        "select t.fare from trips t, zones z, small s \
         where t.PULocationID = z.LocationID and s.\"ID\" = z.locationid + 1 and s.\"trip count\" > 5",
        &[
            "select fare",
            "  inner join on join_key = ID_key",
            "    with_column join_key = PULocationID + 1",
            "      inner join on PULocationID = LocationID",
            "        read_parquet trips",
            "        rename fare to fare_1",
            "          read_parquet zones",
            "    with_column ID_key = ID",
            "      filter `trip count` > 5",
            "        read_parquet small",
        ],
    );
    check(
        "select tip from trips where pulocationid in (select locationid from zones where zone = 'x') and tip > 1",
        &[
            "select tip",
            "  semi join on PULocationID = LocationID",
            "    filter tip > 1",
            "      read_parquet trips",
            "    select LocationID",
            "      filter Zone = \"x\"",
            "        read_parquet zones",
        ],
    );
    // Without keys all rows meet.
    check(
        "select t.tip from trips t cross join (select avg(tip) as mean from trips) m where t.tip > m.mean",
        &[
            "select tip",
            "  filter tip > mean",
            "    inner join on join_key = join_key_1",
            "      with_column join_key = 1",
            "        read_parquet trips",
            "      with_column join_key_1 = 1",
            "        project mean = `avg(tip)`",
            "          aggregate mean(tip) as avg(tip)",
            "            read_parquet trips",
        ],
    );
}

#[test]
fn queries_are_put_together() {
    check(
        "select fare from trips union all select fare from zones union all select \"trip count\" from small",
        &[
            "union",
            "  select fare",
            "    read_parquet trips",
            "  select fare",
            "    read_parquet zones",
            "  project fare = cast(`trip count` as float64)",
            "    select trip count",
            "      read_parquet small",
        ],
    );
    check(
        "select fare from trips union select fare from zones order by fare",
        &[
            "sort fare",
            "  group_by fare:",
            "    union",
            "      select fare",
            "        read_parquet trips",
            "      select fare",
            "        read_parquet zones",
        ],
    );
    check(
        "with x as (select flag, count(*) as n from trips group by flag) select a.n, b.n from x a join x b on a.flag = b.flag",
        &[
            "select n, n_1",
            "  inner join on flag = flag_1",
            "    project flag = flag, n = `count(*)`",
            "      group_by flag: count() as count(*)",
            "        read_parquet trips",
            "    rename flag to flag_1, n to n_1",
            "      project flag = flag, n = `count(*)`",
            "        group_by flag: count() as count(*)",
            "          read_parquet trips",
        ],
    );
}

#[test]
fn names_have_any_case_unless_that_is_all_there_is() {
    check("select \"PULocationID\" from trips", &["select PULocationID", "  read_parquet trips"]);
    check("select id, \"ID\" from small", &["select id, ID", "  read_parquet small"]);
    check("select T.TIP Xx from trips t order by xX", &["sort Xx", "  project Xx = tip", "    read_parquet trips"]);
    check_error("select Id from small", "Id may mean \"ID\" or \"id\": quote the one that is meant");
    check_error(
        "select \"pulocationid\" from trips",
        "there is no column pulocationid (did you mean `PULocationID`?); there are PULocationID, fare, tip, flag, at",
    );
}

#[test]
fn what_is_wrong_is_said_where_it_is() {
    for (query, expected) in [
        ("selec fare from trips", "Expected: an SQL statement, found: selec at Line: 1, Column: 1"),
        ("select fare\nfrom trips where", "Expected: an expression, found: the end of the query"),
        ("select fare\nfrom trips\nwhere and fare", "found: fare at Line: 3, Column: 11"),
        ("select 'a from trips", "Unterminated string literal at Line: 1, Column: 8"),
        ("", "there is no query"),
        ("select 1; select 2", "more than one statement"),
        ("insert into trips values (1)", "only a query (select ..) can be run"),
        ("select nope from trips", "there is no column nope; there are PULocationID, fare, tip, flag, at"),
        ("select t.nope from trips t", "there is no column t.nope; there are t.PULocationID, t.fare, "),
        ("select fare from nope", "there is no table nope; there are Zones, small, trips"),
        ("select fares from trips", "there is no column fares (did you mean `fare`?); there are PULocationID, fare, "),
        ("select tipp from trips, zones", "there is no column tipp (did you mean `trips.tip`?); there are trips.PULoc"),
        ("select fare from trip", "there is no table trip (did you mean `trips`?); there are Zones, small, trips"),
        ("select coalesc(fare, 1) from trips", "there is no function coalesc; did you mean coalesce?"),
        ("select cont(fare) from trips", "there is no function cont; did you mean cot, count, "),
        ("select now() from trips", "now is not decided by its arguments"),
        ("select t.fare from trips t join zones z on t.fare = z.nope", "there is no column z.nope"),
        ("select fare from trips t join zones z on t.tip = z.fare", "column fare is in more than one table"),
        ("select cast('x' as int) from trips", "Cannot cast string 'x' to value of Int32 type"),
        ("select flag, fare from trips group by flag", "must appear in the GROUP BY clause"),
        ("select fare from trips union all select zone from zones", "column fare is Float64 here and Utf8 there"),
    ] {
        check_error(query, expected);
    }
}

/// What DataFusion would say of the types alone is told with the names of the columns.
#[test]
fn types_that_do_not_fit_are_told_with_their_columns() {
    for (query, expected) in [
        (
            "select flag / fare from trips",
            "flag / fare: flag is a text, and only numbers and times can be computed with",
        ),
        ("select fare * 2 - flag as c from trips", "fare * 2 - flag: flag is a text"),
        ("select sum(tip + flag) from trips", "tip + flag: flag is a text"),
        ("select -flag from trips", "-flag: flag is a text, and only numbers and times can be computed with"),
        ("select fare * -t.flag as c from trips t", "-flag: flag is a text"),
        ("select tip from trips where -upper(flag) < 1", "-upper(flag): upper(flag) is a text"),
        ("select flag, -max(flag) from trips group by flag", "`max(trips.flag)` is a text"),
        ("select -cast(tip as uint16) from trips", "cast(tip as uint16) is UInt16, which has no negative numbers"),
        ("select +flag from trips", "flag is a text, and only numbers and times can be computed with"),
        ("select tip from trips where not flag", "flag is a text where true or false is needed"),
        ("select -1, -tip, +2, not true, - interval '1 day', -null, -flag from trips", "-flag: flag is a text"),
        ("select max(flag) % 2 from trips", "`max(trips.flag)` is a text, and only numbers and times can be"),
        ("select at + fare from trips", "at is a point in time and fare is a number, between which there is no +"),
        (
            "select t.fare + z.zone from trips t join zones z on t.PULocationID = z.LocationID",
            "fare + Zone: Zone is a text",
        ),
        ("select fare and tip > 1 from trips", "fare is a number where true or false is needed"),
        ("select fare from trips where fare", "fare is a number where true or false is needed"),
        ("select sum(flag) from trips", "sum(flag): flag is a text, not a number; cast it to one"),
        ("select flag, avg(at) from trips group by flag", "at is a point in time, not a number"),
        ("select sqrt(flag, 2) from trips", "flag is a text and 2 is a number, which sqrt does not take"),
        ("select sqrt() from trips", "sqrt(): sqrt needs an argument"),
    ] {
        check_error(query, expected);
        let error = planned(query).unwrap_err().to_string();
        assert!(!error.contains("coerce") && !error.contains("Utf8"), "{query}: {error}");
    }
    // What DataFusion lets pass is told when the plan is looked at, in the same words.
    for (query, expected) in [
        ("select fare from trips where flag / 2 > 1", "flag / 2: flag is a text, and only numbers"),
        (
            "select fare from trips where fare = '5'",
            "fare = \"5\": fare is a number and \"5\" is a text; cast one of them",
        ),
        ("select fare from trips where fare and tip > 1", "fare is a number where true or false is needed"),
        ("select -at as c from trips", "-at: at is a point in time, of which there is no negative"),
    ] {
        let plan = planned(query).unwrap();
        let LogicalPlan::Op { op, .. } = below_selects(&plan) else { panic!("{plan}") };
        let error = schema_after(op, &tables()[0].2).unwrap_err().to_string();
        assert!(error.contains(expected), "{query}: {error}");
    }
}

fn below_selects(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Op { input, op: Operator::Select { .. } } => below_selects(input),
        other => other,
    }
}
