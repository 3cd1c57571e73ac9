//! Seconds since 1970 to a date and time of day, proleptic Gregorian.
//! <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>

const DAY_SECONDS: i64 = 86_400;
/// Days of 400 years, after which the calendar repeats.
const CYCLE_DAYS: i64 = 146_097;
/// From 0000-03-01, where the arithmetic starts, to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// Days before each month of a year that starts in March.
const DAYS_BEFORE: [i64; 12] = [0, 31, 61, 92, 122, 153, 184, 214, 245, 275, 306, 337];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    pub year: i32,
    /// 1 to 12.
    pub month: i32,
    pub day: i32,
    pub hour: i32,
    pub minute: i32,
    pub second: i32,
    /// 0 is Sunday.
    pub weekday: i32,
    /// 0 is the first of January.
    pub yearday: i32,
}

impl Civil {
    /// `None` if the year does not fit.
    pub fn of_seconds(seconds: i64) -> Option<Self> {
        let day_number = seconds.div_euclid(DAY_SECONDS);
        let second_of_day = seconds.rem_euclid(DAY_SECONDS) as i32;
        let days = day_number + EPOCH_DAYS;
        let (cycle, day_of_cycle) = (days.div_euclid(CYCLE_DAYS), days.rem_euclid(CYCLE_DAYS));
        // Years start in March, so that the leap day is a year's last day; the corrections remove the leap days of
        // 4, 100 and 400 years.
        let year_of_cycle = (day_of_cycle - day_of_cycle / 1460 + day_of_cycle / 36_524
            - day_of_cycle / 146_096)
            / 365;
        let day_of_year =
            day_of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
        let month_index = DAYS_BEFORE
            .iter()
            .rposition(|before| *before <= day_of_year)? as i32;
        let month = if month_index < 10 {
            month_index + 3
        } else {
            month_index - 9
        };
        let year = cycle * 400 + year_of_cycle + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let yearday = if month <= 2 {
            day_of_year - 306
        } else {
            day_of_year + 59 + i64::from(leap)
        };
        Some(Self {
            year: i32::try_from(year).ok()?,
            month,
            day: (day_of_year - DAYS_BEFORE[month_index as usize]) as i32 + 1,
            hour: second_of_day / 3600,
            minute: second_of_day / 60 % 60,
            second: second_of_day % 60,
            weekday: (day_number + 4).rem_euclid(7) as i32,
            yearday: yearday as i32,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(seconds: i64) -> (i32, i32, i32, i32, i32) {
        let civil = Civil::of_seconds(seconds).expect("the year fits");
        (
            civil.year,
            civil.month,
            civil.day,
            civil.weekday,
            civil.yearday,
        )
    }

    #[test]
    fn well_known_days() {
        assert_eq!(date(0), (1970, 1, 1, 4, 0));
        assert_eq!(date(951_782_400), (2000, 2, 29, 2, 59));
        assert_eq!(date(978_220_800), (2000, 12, 31, 0, 365));
        assert_eq!(date(-2_203_977_600), (1900, 2, 28, 3, 58));
        assert_eq!(date(-2_203_891_200), (1900, 3, 1, 4, 59));
        assert_eq!(date(-1), (1969, 12, 31, 3, 364));
    }

    #[test]
    fn every_day_of_800_years_follows_the_one_before() {
        let mut last = Civil::of_seconds(-400 * 366 * DAY_SECONDS).expect("the year fits");
        for day in -400 * 366 + 1..400 * 366_i64 {
            let next = Civil::of_seconds(day * DAY_SECONDS + 3661).expect("the year fits");
            assert_eq!((next.hour, next.minute, next.second), (1, 1, 1));
            assert_eq!(next.weekday, (last.weekday + 1) % 7);
            if next.yearday == 0 {
                assert_eq!((next.month, next.day, next.year), (1, 1, last.year + 1));
                assert_eq!((last.month, last.day), (12, 31));
            } else if next.day == 1 {
                assert_eq!(
                    (next.month, next.yearday),
                    (last.month + 1, last.yearday + 1)
                );
                assert!(last.day >= 28);
            } else {
                assert_eq!((next.day, next.yearday), (last.day + 1, last.yearday + 1));
            }
            last = next;
        }
    }

    #[test]
    fn the_time_of_day_counts_from_midnight_before_1970_too() {
        let civil = Civil::of_seconds(-1).expect("the year fits");
        assert_eq!((civil.hour, civil.minute, civil.second), (23, 59, 59));
    }
}
