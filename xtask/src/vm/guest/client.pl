# ADDRESS [once]: what the far side tells a connection to port 443, a line each. Without `once` the
# connection is kept, and it only waits; when it has ended there is a line that says how, and the next.
use strict;
use warnings;
use IO::Socket::INET;

$| = 1;
my ($address, $once) = @ARGV;
while (1) {
    my $flow = IO::Socket::INET->new(PeerAddr => $address, PeerPort => 443, Timeout => 10);
    if (!$flow) {
        die "$@\n" if $once;
        select undef, undef, undef, 0.2;
        next;
    }
    my $word = <$flow>;
    print $word // "nothing\n";
    exit if $once;
    $! = 0;
    <$flow>;
    print 'ended: ', ($! || 'closed'), "\n";
}
