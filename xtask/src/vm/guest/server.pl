# WORD: tells every connection to port 443 the word, and keeps it open.
use strict;
use warnings;
use IO::Socket::INET;

my ($word) = @ARGV;
my $server = IO::Socket::INET->new(LocalPort => 443, Listen => 64, ReuseAddr => 1) or die "$@\n";
# Taken in and left there: whoever sends them is not to hear of a closed port.
my $datagrams = IO::Socket::INET->new(LocalPort => 443, Proto => 'udp') or die "$@\n";
my @flows;
while (my $flow = $server->accept) {
    syswrite $flow, "$word\n";
    push @flows, $flow;
}
