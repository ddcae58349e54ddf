use super::*;
use crate::expr::{col, lit};
use crate::files::{ColumnStatistics, RowGroup};
use crate::schema::{FileSchema, Matching, unify};
use arrow::array::{Int64Array, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use std::sync::Arc;

fn footer(path: &str, groups: &[u64]) -> FileFooter {
    let fields = ["a", "b", "c"].map(|name| Field::new(name, DataType::Int64, true));
    let group = |rows: &u64| RowGroup { rows: *rows, column_bytes: vec![rows * 8; 3] };
    FileFooter {
        path: path.into(),
        remote: None,
        bytes: 1,
        schema: Arc::new(Schema::new(fields.to_vec())),
        row_groups: groups.iter().map(group).collect(),
        statistics: Vec::new(),
        text: None,
        hive: Vec::new(),
    }
}

fn text(path: &str, bytes: u64, piece_bytes: Option<u64>) -> FileFooter {
    FileFooter { text: Some(TextFile { bytes, piece_bytes, is_named: false }), ..footer(path, &[]) }
}

fn unified(footers: &[FileFooter]) -> Unified {
    let files: Vec<FileSchema<'_>> = footers.iter().map(FileFooter::file_schema).collect();
    unify(&files, &Matching::default()).unwrap()
}

fn all(footers: &[FileFooter], filter: Option<&Expr>) -> Vec<(Piece, u64)> {
    let unified = unified(footers);
    let needed: Vec<usize> = (0..unified.schema.fields().len()).collect();
    pieces(footers, &unified, &needed, filter)
}

fn rows(blocks: &[(Vec<Piece>, u64)]) -> u64 {
    blocks.iter().flat_map(|(pieces, _)| pieces).map(|piece| piece.rows.unwrap()).sum()
}

#[test]
fn blocks_are_as_large_as_they_should_be() {
    let footers = [footer("x", &[10, 20]), footer("y", &[30])];
    let grouped = |target| group(all(&footers, None), target);
    assert_eq!((grouped(1).len(), rows(&grouped(1))), (3, 60));
    // 24 bytes a row: both groups of the first file, then the second.
    assert_eq!(
        grouped(720).iter().map(|(pieces, bytes)| (pieces.len(), *bytes)).collect::<Vec<_>>(),
        [(1, 720), (1, 720)]
    );
    assert_eq!(grouped(u64::MAX).len(), 1);
    assert_eq!(group(Vec::new(), 1), [(Vec::new(), 0)]);
}

#[test]
fn only_columns_that_are_needed_count() {
    let footers = [footer("x", &[10])];
    let found = pieces(&footers, &unified(&footers), &[2, 0], None);
    assert_eq!(found[0].1, 160);
    assert_eq!(found[0].0.columns, [ColumnSource::File(2), ColumnSource::File(0)]);
}

#[test]
fn text_is_cut_by_bytes_and_never_by_rows() {
    let footers = [text("x", 100, Some(40)), text("y", 30, None), text("z", 0, Some(40))];
    let found = all(&footers, None);
    let ranges: Vec<_> = found.iter().map(|(piece, bytes)| (piece.file, piece.part.clone(), *bytes)).collect();
    let bytes = |file, range: Range<u64>| (file, Part::Bytes(range.clone()), range.end - range.start);
    assert_eq!(ranges, [bytes(0, 0..34), bytes(0, 34..68), bytes(0, 68..100), bytes(1, 0..30), bytes(2, 0..0)]);
    let mut limited = found.clone();
    cut(&mut limited, 1);
    assert_eq!(limited, found);
    cut(&mut limited, 0);
    assert_eq!(limited, []);
    let together = group(found, u64::MAX);
    assert_eq!(together[0].0[0].part, Part::Bytes(0..100));
    assert_eq!(together[0].0.len(), 3);
}

#[test]
fn what_statistics_and_directories_rule_out_is_not_read() {
    let told = |values: [i64; 2], zone: &str| {
        let values = |offset: i64| Arc::new(Int64Array::from_iter_values(values.map(|v| v + offset)));
        let statistics =
            ColumnStatistics { mins: values(0), maxes: values(9), nulls: UInt64Array::from(vec![Some(0), None]) };
        let mut footer = footer("x", &[10, 10]);
        footer.statistics = vec![statistics];
        footer.hive = vec![("zone".into(), Some(zone.into()))];
        footer
    };
    let footers = [told([0, 10], "1"), told([20, 30], "2")];
    let read = |filter: Expr| -> Vec<(u64, Option<u64>)> {
        all(&footers, Some(&filter)).iter().map(|(piece, _)| (piece.file, piece.first_row)).collect()
    };
    let (first, second) = (Some(0), Some(10));
    assert_eq!(read(col("a").gt(lit(15))), [(0, second), (1, first), (1, second)]);
    assert_eq!(read(col("zone").eq(lit(2))), [(1, first), (1, second)]);
    assert_eq!(read(col("zone").eq(lit(2)).and(col("a").lt(lit(30)))), [(1, first)]);
    assert_eq!(read(col("a").is_null()), [(0, second), (1, second)]);
    assert_eq!(read(col("b").gt(lit(100))).len(), 4);
    let texts = [FileFooter { hive: told([0, 0], "3").hive, ..text("t", 10, None) }];
    assert_eq!(all(&texts, Some(&col("zone").eq(lit(4)))), []);
    assert_eq!(all(&texts, Some(&col("zone").eq(lit(3)))).len(), 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn every_row_is_in_exactly_one_piece(
        files in proptest::collection::vec(proptest::collection::vec(0u64..3_000_000, 0..6), 1..5),
        limit in proptest::option::of(0u64..20_000_000),
        target in prop_oneof![1u64..100_000_000, Just(u64::MAX)],
    ) {
        let paths: Vec<String> = (0..files.len()).map(|i| format!("f{i}")).collect();
        let footers: Vec<_> = files.iter().zip(&paths).map(|(g, p)| footer(p, g)).collect();
        let mut found = all(&footers, None);
        if let Some(rows) = limit {
            cut(&mut found, rows);
        }
        let blocks = group(found, target);
        let total: u64 = files.iter().flatten().sum();
        prop_assert_eq!(rows(&blocks), total.min(limit.unwrap_or(u64::MAX)));
        let mut last = (0, 0);
        for piece in blocks.iter().flat_map(|(pieces, _)| pieces) {
            let groups = &files[piece.file as usize];
            let Part::RowGroups(range) = &piece.part else { panic!("{piece:?}") };
            let (from, to) = (range.start as usize, range.end as usize);
            prop_assert_eq!(piece.first_row, Some(groups[..from].iter().sum::<u64>()));
            prop_assert_eq!(piece.group_rows, Some(groups[from..to].iter().sum::<u64>()));
            prop_assert!(piece.rows <= piece.group_rows);
            prop_assert!((piece.file, range.start) >= last);
            last = (piece.file, range.end);
        }
    }

    #[test]
    fn every_byte_is_in_exactly_one_piece(sizes in proptest::collection::vec((0u64..5000, proptest::option::of(1u64..900)), 1..5), target in 1u64..2000) {
        let footers: Vec<_> = sizes.iter().map(|(bytes, piece)| text("f", *bytes, *piece)).collect();
        let found = all(&footers, None);
        let largest = found.iter().map(|(_, bytes)| *bytes).max().unwrap_or(0);
        let mut ends = vec![0; sizes.len()];
        for (pieces, bytes) in group(found, target) {
            prop_assert!(bytes <= largest.max(target * 2));
            for piece in pieces {
                let Part::Bytes(range) = piece.part else { panic!() };
                prop_assert_eq!(ends[piece.file as usize], range.start);
                ends[piece.file as usize] = range.end;
            }
        }
        prop_assert_eq!(ends, sizes.iter().map(|(bytes, _)| *bytes).collect::<Vec<_>>());
    }
}
