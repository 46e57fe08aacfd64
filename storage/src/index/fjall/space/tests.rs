//! The arithmetic of the space accounting.

use super::*;

#[test]
fn needed_space_is_the_sum_of_all_demands() {
    let demand = SpaceDemand {
        queued: 10,
        buffered: 100,
        compacting: 1_000,
        margin: 10_000,
        missing: 100_000,
    };
    assert_eq!(demand.needed(5), 2 * 15 + 111_100);
    assert_eq!(
        SpaceDemand {
            buffered: u64::MAX,
            ..demand
        }
        .needed(5),
        u64::MAX,
        "the sum saturates"
    );
}

#[test]
fn reserve_is_a_bounded_share_of_the_disk() {
    assert_eq!(share(16 * MIB, 24 * MIB), 24 * MIB / 16);
    assert_eq!(share(16 * MIB, 1 << 50), 16 * MIB);
    assert_eq!(share(16 * MIB, 0), 0, "the size of the disk is unknown");
}

#[test]
fn last_quarter_of_the_reserve_is_released_last() {
    let share = 16 * MIB;
    assert_eq!(
        give_up(1 << 40, share, 1000, 8 * MIB, share),
        0,
        "space is plentiful"
    );
    // A flush of the buffered bytes would not fit. At most three quarters of the reserve are
    // released for a flush, and only if they suffice.
    assert_eq!(give_up(0, share, 0, 4 * MIB, share), SLACK_BYTES + 8 * MIB);
    assert_eq!(
        give_up(0, share, 0, 64 * MIB, share),
        SLACK_BYTES,
        "only the commit counts"
    );
    // Without the last quarter the commit itself would not fit.
    assert_eq!(
        give_up(0, share / 4, MIB / 2, 64 * MIB, share),
        MIB + SLACK_BYTES
    );
    assert_eq!(
        give_up(0, 100, MIB, 0, share),
        100,
        "never more than the reserve holds"
    );
}
